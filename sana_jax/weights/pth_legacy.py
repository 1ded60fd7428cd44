"""Layout of a legacy checkpoint file, as torch.save wrote before 1.6.

  three pickles: a magic number, the version of the format, the machine
  a pickle of the object, as in current files
  a pickle of the storages' keys, in the order of the file
  for each storage, its number of elements (int64), and the elements

Reading is lazy and runs no code, as for current files.
"""

import os
import struct
import sys
from typing import BinaryIO

from sana_jax.printable import printable
from sana_jax.weights import pickled
from sana_jax.weights.pickled import Checkpoint, DamagedPart
from sana_jax.weights.safe_pickle import described

MAGIC = bytes.fromhex('80028a0a6cfc9c46f920')  # Start of the first pickle.
_VERSION = 1001


def read(file: BinaryIO) -> Checkpoint:
  """Reads the file from its beginning.

  Raises ValueError for a damaged one.
  """
  file.seek(0)
  end = os.fstat(file.fileno()).st_size
  _, version, machine, content, keys = (
    pickled.load(file, end) for _ in range(5)
  )
  if version.value != _VERSION or not isinstance(machine.value, dict):
    raise DamagedPart(
      f'version {described(version.value)} of the format',
      'version',
      (_VERSION,),
    )
  if not isinstance(keys.value, list):
    raise DamagedPart('no list of storages', 'keys', (list,))
  little = machine.value.get('little_endian', True) is True
  return Checkpoint(
    content,
    dict(
      _places(file, end, keys.value, content.storages, '<q' if little else '>q')
    ),
    little != (sys.byteorder == 'little'),
  )


def _places(file, end, keys, storages, layout):
  for key in keys:
    if not isinstance(key, str) or key not in storages:
      raise DamagedPart(
        f'storage {_named(key)} is of no tensor', str(key), list(storages)
      )
    header = file.read(8)
    if len(header) < 8:
      raise DamagedPart(
        f'storage {_named(key)} is cut short', key, '8 bytes or more'
      )
    size = struct.unpack(layout, header)[0] * storages[key].dtype.itemsize
    position = file.tell()
    if not 0 <= size <= end - position:
      raise DamagedPart(
        f'storage {_named(key)} reaches past the end',
        key,
        f'{end - position} bytes or fewer',
      )
    yield key, (position, size)
    file.seek(position + size)


def _named(key):
  return printable(repr(key), 100) if isinstance(key, str) else described(key)
