"""What torch.save wrote before 1.6, and some published files still are.

  three pickles: a magic number, the version of the format, the machine
  a pickle of the object, as in the files of today
  a pickle of the storages' keys, in the order in which they follow:
  for each, how many numbers (int64), and the numbers

Like the files of today it is read lazily, and nothing of it is run.
"""

from collections.abc import Iterator, Mapping
import os
import pickletools
import struct
import sys
from typing import Any, BinaryIO, NamedTuple

from sana_jax.weights import pickled

MAGIC = bytes.fromhex('80028a0a6cfc9c46f920')  # The first pickle's start.
_VERSION = 1001


class Content(NamedTuple):
  """Where what stands in the file."""

  pickle: bytes  # Of the object.
  storages: Mapping[str, tuple[int, int]]  # Key -> (position, bytes).
  swapped: bool  # Written on a machine of the other byte order.


def read(file: BinaryIO) -> Content:
  """The file from its beginning.

  Raises ValueError or pickled.Refused for a damaged or hostile one.
  """
  file.seek(0)
  _, version, machine = (pickled.loads(_next(file)) for _ in range(3))
  if version != _VERSION or not isinstance(machine, dict):
    raise ValueError(f'version {version!r} of the format')
  content = _next(file)
  sizes = {s.key: s.dtype.itemsize
           for s in _storages(pickled.loads(content))}
  keys = pickled.loads(_next(file))
  if not isinstance(keys, list):
    raise ValueError('no list of storages')
  little = machine.get('little_endian', True)
  return Content(
    content, dict(_positions(file, keys, sizes, '<' if little else '>')),
    little != (sys.byteorder == 'little'))


def _next(file):
  """The bytes of the pickle that begins here; the file is then behind it."""
  start = file.tell()
  for _ in pickletools.genops(file):
    pass
  length = file.tell() - start
  file.seek(start)
  return file.read(length)


def _storages(x: Any) -> Iterator[pickled.Storage]:
  if isinstance(x, pickled.Tensor):
    yield x.storage
  elif isinstance(x, dict | list | tuple):
    for item in x.values() if isinstance(x, dict) else x:
      yield from _storages(item)


def _positions(file, keys, sizes, order):
  end = os.fstat(file.fileno()).st_size
  for key in keys:
    header = file.read(8)
    if len(header) < 8 or key not in sizes:
      raise ValueError(f'storage {key!r} is cut short, or of no tensor')
    size = struct.unpack(f'{order}q', header)[0] * sizes[key]
    position = file.tell()
    if size < 0 or position + size > end:
      raise ValueError(f'storage {key!r} reaches past the end')
    yield key, (position, size)
    file.seek(position + size)
