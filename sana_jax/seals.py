"""Bytes with their CRC-32 at the end, for caches that are read back."""

import re
import zlib

_SEAL = re.compile(rb'\ncrc32 ([0-9a-f]{8})\n')
_LENGTH = len(b'\ncrc32 00000000\n')


def sealed(data: bytes) -> bytes:
  """The data with a last line that `unsealed` compares."""
  return data + b'\ncrc32 %08x\n' % zlib.crc32(data)


def unsealed(data: bytes) -> bytes:
  """The data of `sealed`; ValueError where a byte is missing or differs."""
  data, seal = data[:-_LENGTH], data[-_LENGTH:]
  match = _SEAL.fullmatch(seal)
  if match is None:
    raise ValueError('it has no checksum, or is cut short')
  if int(match[1], 16) != zlib.crc32(data):
    raise ValueError('it differs from its checksum')
  return data
