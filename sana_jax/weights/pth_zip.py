"""Zip files, as torch.save writes them since 1.6.

  ROOT/data.pkl   names and shapes of the tensors, and their storages
  ROOT/data/KEY   the elements of one storage
  ROOT/byteorder  'little' or 'big'

Members are uncompressed, so that ranges of storages can be read. Overlapping
members, which torch never writes, are refused: a file of 1 MB cannot contain a
thousand storages of 1 MB.
"""

from collections.abc import Iterator, Mapping
import io
import itertools
import os
import pathlib
import struct
import sys
from typing import BinaryIO, NamedTuple
import zipfile
import zlib

import numpy as np

from sana_jax import files
from sana_jax.printable import printable
from sana_jax.weights import pickled
from sana_jax.weights.pickled import Checkpoint, DamagedPart

_ALIGNMENT = 64  # Alignment of every storage in the file, as in torch.
_LOCAL_HEADER = 30  # Bytes before a zip member's name.
_ZIP64 = 2**30  # Size from which members have zip64 fields.
_DIRECTORY_BYTES = 2**23  # Limit of a directory: over 100,000 members.
_PICKLE_BYTES = 2**28


class TorchScript(ValueError):
  """The file is a TorchScript archive: a program with its tensors."""


class _Bounded:
  """File whose reads are limited to the size of a directory."""

  def __init__(self, file: BinaryIO):
    self.file, self.seek, self.tell = file, file.seek, file.tell

  def read(self, size: int = -1) -> bytes:
    if size > _DIRECTORY_BYTES:
      raise DamagedPart(
        f'a directory of {size} bytes',
        'directory',
        f'{_DIRECTORY_BYTES} bytes or fewer',
      )
    return self.file.read(size)


class _Member(NamedTuple):
  start: int
  size: int
  checksum: int


def read(file: BinaryIO) -> Checkpoint:
  """Checkpoint of a zip file.

  Raises:
    TorchScript: it is a program, not a checkpoint.
    ValueError, zipfile.BadZipFile, ...: it is damaged, or not a checkpoint.
  """
  members = _members(file)
  roots = [
    name[: -len('data.pkl')]
    for name in members
    if name.endswith('/data.pkl') and name.count('/') == 1
  ]
  if len(roots) != 1:
    raise DamagedPart(
      'it is a zip file, but not a torch checkpoint', 'data.pkl', 'one member'
    )
  root = roots[0]
  order = b'little'
  if f'{root}byteorder' in members:
    order = _content(file, members, f'{root}byteorder', most=6)
  if order not in (b'little', b'big'):
    raise DamagedPart(f'byte order {order!r}', 'byteorder', ('little', 'big'))
  data = _content(file, members, f'{root}data.pkl', _PICKLE_BYTES)
  prefix = f'{root}data/'
  return Checkpoint(
    pickled.load(io.BytesIO(data), len(data)),
    {
      name[len(prefix) :]: (member.start, member.size)
      for name, member in members.items()
      if name.startswith(prefix)
    },
    order.decode() != sys.byteorder,
  )


def _members(file) -> Mapping[str, _Member]:
  end = os.fstat(file.fileno()).st_size
  with zipfile.ZipFile(_Bounded(file)) as archive:
    infos = archive.infolist()
  # Its members of code are compressed.
  if any(info.filename.endswith('/constants.pkl') for info in infos):
    raise TorchScript
  members = {}
  for info in infos:
    shown = printable(info.filename, 100)
    # A compressed member may expand to any size.
    if (
      info.compress_type != zipfile.ZIP_STORED
      or info.flag_bits & 1
      or (info.compress_size != info.file_size)
    ):
      raise DamagedPart(
        f'{shown} is compressed or encrypted, which torch does not write',
        info.filename,
        'stored members',
      )
    if info.filename in members:
      raise DamagedPart(
        f'it has two members {shown}', info.filename, 'one member'
      )
    start = _start(file, info, end)
    if start + info.file_size > end:
      raise DamagedPart(
        f'{shown} reaches past the end',
        info.filename,
        f'{end - start} bytes or fewer',
      )
    members[info.filename] = _Member(start, info.file_size, info.CRC)
  filled = sorted(m for m in members.values() if m.size)
  if any(a.start + a.size > b.start for a, b in itertools.pairwise(filled)):
    raise DamagedPart('its members overlap', 'data', 'separate members')
  return members


def _start(file, info, end):
  """Position of a member's bytes, from the lengths in its local header."""
  header = b''
  if 0 <= info.header_offset < end:
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
  if len(header) < _LOCAL_HEADER or header[:4] != b'PK\x03\x04':
    raise DamagedPart(
      f'{printable(info.filename, 100)} is not where it should be',
      info.filename,
      'a local header',
    )
  return (
    info.header_offset + _LOCAL_HEADER + sum(struct.unpack('<HH', header[26:]))
  )


def _content(file, members, name, most):
  member = members[name]
  if member.size > most:
    raise DamagedPart(
      f'a member of {member.size} bytes, and {most} are allowed',
      name,
      f'{most} bytes or fewer',
    )
  file.seek(member.start)
  data = file.read(member.size)
  if zlib.crc32(data) != member.checksum:
    raise DamagedPart(
      'a checksum that does not match', name, (member.checksum,)
    )
  return data


def write(
  path: pathlib.Path, pickle: bytes, storages: Iterator[tuple[str, np.ndarray]]
) -> None:
  """Writes the file atomically, with only one storage at a time in memory."""
  with (
    files.atomically(path) as part,
    open(part, 'wb') as file,
    zipfile.ZipFile(file, 'w') as archive,
  ):
    _add(file, archive, 'data.pkl', pickle)
    _add(file, archive, 'byteorder', sys.byteorder.encode())
    for key, array in storages:
      _add(file, archive, f'data/{key}', array.reshape(-1).view(np.uint8))
    _add(file, archive, 'version', b'3\n')


def _add(file, archive, name, data):
  """Adds a member whose bytes begin at a multiple of 64."""
  info = zipfile.ZipInfo(f'archive/{name}')
  info.file_size = len(data)
  wide = len(data) > _ZIP64
  header = _LOCAL_HEADER + len(info.filename) + 4 + (20 if wide else 0)
  padding = -(file.tell() + header) % _ALIGNMENT
  info.extra = struct.pack('<2sH', b'FB', padding) + b'Z' * padding
  with archive.open(info, 'w', force_zip64=wide) as member:
    member.write(data)
