"""Bytes with a trailing CRC-32, for caches."""

import re
import zlib

_SEAL = re.compile(rb'\ncrc32 ([0-9a-f]{8})\n')
_LENGTH = len(b'\ncrc32 00000000\n')


def sealed(data: bytes) -> bytes:
  """The data with its CRC-32 appended as a line."""
  return data + b'\ncrc32 %08x\n' % zlib.crc32(data)


def unsealed(data: bytes) -> bytes:
  """The data without its CRC-32. Raises ValueError if it does not match."""
  data, seal = data[:-_LENGTH], data[-_LENGTH:]
  match = _SEAL.fullmatch(seal)
  if match is None:
    raise ValueError('it has no checksum, or is cut short')
  if int(match[1], 16) != zlib.crc32(data):
    raise ValueError('it differs from its checksum')
  return data
