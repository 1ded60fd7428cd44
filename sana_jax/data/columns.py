"""Rows of columns in safetensors files, read by byte ranges.

Files are not memory-mapped, as truncating a mapped file would end the process
with SIGBUS. Files are opened lazily, so that a source of a hundred thousand
files opens none at the start.
"""

import functools
import math
import os
import threading
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sana_jax.data import files
from sana_jax.files import open_regular, parse_json
from sana_jax.paths import expanded

_DTYPES = {
  'F32': np.float32,
  'BF16': jnp.bfloat16,
  'F16': np.float16,
  'I64': np.int64,
  'I32': np.int32,
  'U32': np.uint32,
  'U8': np.uint8,
}
_OPEN = 512  # Open files of a folder at a time.
_LARGE = 2**24  # Bytes of a read from which the file's size is checked first.


class Column(NamedTuple):
  """Location of a column in its file."""

  dtype: np.dtype
  shape: tuple[int, ...]
  start: int  # In bytes.

  @property
  def row_bytes(self) -> int:
    """Bytes of one entry along the first axis."""
    return math.prod(self.shape[1:]) * self.dtype.itemsize


class Columns:
  """Columns of all files of a folder; thread-safe."""

  def __init__(self, folder: str):
    self._folder, self._lock = expanded(folder), threading.Lock()
    self._headers: dict[str, dict[str, Column]] = {}
    self._opened = functools.lru_cache(_OPEN)(
      lambda file: RangeReader(self._path(file))
    )

  def names(self, file: str) -> list[str]:
    """Names of a file's columns; ValueError or OSError if it is damaged."""
    return list(self._header(file))

  def metadata(self, file: str) -> dict[str, str]:
    """The texts in a file's header; ValueError or OSError if it is damaged."""
    found = parse_json(self._header_text(file))
    return found.get('__metadata__', {}) if isinstance(found, dict) else {}

  def length(self, file: str) -> int:
    """Bytes of the complete file, according to its header."""
    return max(
      (
        column.start + column.shape[0] * column.row_bytes
        for column in self._header(file).values()
      ),
      default=0,
    )

  def place(self, file: str, name: str) -> range:
    """Byte range of a column in its file."""
    column = self._header(file)[name]
    return range(
      column.start, column.start + column.shape[0] * column.row_bytes
    )

  def rows(
    self, file: str, name: str, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """Rows `start` to `stop` of a column.

    Raises OSError, LookupError or ValueError for damaged files.
    """
    column = self._header(file)[name]
    stop = column.shape[0] if stop is None else stop
    if not 0 <= start <= stop <= column.shape[0]:
      raise ValueError(f'{name} has no rows {start} to {stop}')
    data = self._bytes(
      file,
      column.start + start * column.row_bytes,
      column.start + stop * column.row_bytes,
    )
    return data.view(column.dtype).reshape(stop - start, *column.shape[1:])

  def _header(self, file):
    if file not in self._headers:
      text = self._header_text(file)
      try:
        found = header(text)
      except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f'its header is damaged ({error!r})') from error
      with self._lock:
        self._headers[file] = found
    return self._headers[file]

  def _header_text(self, file):
    size = int(self._bytes(file, 0, 8).view('<u8')[0])
    return self._bytes(file, 8, 8 + size).tobytes()

  def _bytes(self, file, start, stop):
    if not files.is_remote(self._folder):
      return self._opened(file).read(start, stop)
    found = np.frombuffer(files.read(self._path(file), start, stop), np.uint8)
    if len(found) != stop - start:
      raise ValueError('the file is cut short')
    return found

  def _path(self, file):
    return os.path.join(self._folder, file)


class RangeReader:
  """A local file from which any number of threads read ranges.

  It is closed with its last reference: a thread may still read from a file that
  was evicted from the open ones.
  """

  def __init__(self, path: str):
    with open_regular(path) as file:
      self._descriptor = os.dup(file.fileno())

  def __del__(self):
    if hasattr(self, '_descriptor'):
      os.close(self._descriptor)

  def read(self, start: int, stop: int) -> np.ndarray:
    """Bytes `start` to `stop`; ValueError if the file ends before."""
    if not 0 <= start <= stop < 2**63:
      raise ValueError('its header is damaged')
    if stop - start > _LARGE and stop > os.fstat(self._descriptor).st_size:
      raise ValueError('the file is cut short')  # Before allocating memory.
    out = np.empty(stop - start, np.uint8)
    done = os.preadv(self._descriptor, [out], start)
    while done < len(out):
      count = os.preadv(self._descriptor, [out[done:]], start + done)
      if not count:
        raise ValueError('the file is cut short')
      done += count
    return out


def header(text: bytes) -> dict[str, Column]:
  """Columns by name, from the JSON header of a safetensors file."""
  content = parse_json(text)
  content.pop('__metadata__', None)
  return {
    name: _column(8 + len(text), entry) for name, entry in content.items()
  }


def _column(start, entry):
  shape, offset = tuple(entry['shape']), entry['data_offsets'][0]
  if not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, offset)):
    raise ValueError('a size is not a whole number')
  return Column(np.dtype(_DTYPES[entry['dtype']]), shape, start + offset)
