"""Rows of columns in safetensors files, without reading the rest of the file.

Files of a disk are mapped into memory, those of gs://, s3:// and hf:// read by
ranges. A file is opened when it is first needed, so that a source of a hundred
thousand files opens none.
"""

import functools
import math
import os
import threading
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sana_jax.data import files
from sana_jax.files import parse_json
from sana_jax.paths import expanded

_DTYPES = {'F32': np.float32, 'BF16': jnp.bfloat16, 'F16': np.float16,
           'I64': np.int64, 'I32': np.int32, 'U32': np.uint32, 'U8': np.uint8}
_OPEN = 512  # Mapped files of a folder at a time.


class Column(NamedTuple):
  """Where a column lies in its file."""

  dtype: np.dtype
  shape: tuple[int, ...]
  start: int  # In bytes.

  @property
  def row_bytes(self) -> int:
    """Of one entry along the first axis."""
    return math.prod(self.shape[1:]) * self.dtype.itemsize


class Columns:
  """The columns of all files of a folder, for any number of threads."""

  def __init__(self, folder: str):
    self._folder, self._lock = expanded(folder), threading.Lock()
    self._headers: dict[str, dict[str, Column]] = {}
    self._mapped = functools.lru_cache(_OPEN)(
      lambda file: np.asarray(np.memmap(self._path(file), np.uint8, 'r')))

  def names(self, file: str) -> list[str]:
    """Of a file's columns; ValueError or OSError if it is damaged."""
    return list(self._header(file))

  def length(self, file: str) -> int:
    """How many bytes a whole file has, as its header tells."""
    return max((column.start + column.shape[0] * column.row_bytes
                for column in self._header(file).values()), default=0)

  def place(self, file: str, name: str) -> range:
    """Where in the file a column's bytes are."""
    column = self._header(file)[name]
    return range(
      column.start, column.start + column.shape[0] * column.row_bytes)

  def rows(
    self, file: str, name: str, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """Rows `start` to `stop` of a column.

    Raises OSError, LookupError or ValueError for files that are damaged.
    """
    column = self._header(file)[name]
    stop = column.shape[0] if stop is None else stop
    if not 0 <= start <= stop <= column.shape[0]:
      raise ValueError(f'{name} has no rows {start} to {stop}')
    data = self._bytes(file, column.start + start * column.row_bytes,
                       column.start + stop * column.row_bytes)
    return data.view(column.dtype).reshape(stop - start, *column.shape[1:])

  def _header(self, file):
    if file not in self._headers:
      size = int(self._bytes(file, 0, 8).view('<u8')[0])
      text = self._bytes(file, 8, 8 + size).tobytes()
      try:
        found = header(text)
      except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f'its header is damaged ({error!r})') from error
      with self._lock:
        self._headers[file] = found
    return self._headers[file]

  def _bytes(self, file, start, stop):
    if files.is_remote(self._folder):
      found = np.frombuffer(files.read(self._path(file), start, stop), np.uint8)
    else:
      # A copy: a view would keep the file open, and slow pages would be read
      # by whoever uses it.
      found = np.array(self._mapped(file)[start:stop])
    if len(found) != stop - start:
      raise ValueError('the file is cut short')
    return found

  def _path(self, file):
    return os.path.join(self._folder, file)


def header(text: bytes) -> dict[str, Column]:
  """The columns by name, of the JSON at the start of a safetensors file."""
  content = parse_json(text)
  content.pop('__metadata__', None)
  return {name: _column(8 + len(text), entry)
          for name, entry in content.items()}


def _column(start, entry):
  shape, offset = tuple(entry['shape']), entry['data_offsets'][0]
  if not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, offset)):
    raise ValueError('a size is no whole number')
  return Column(np.dtype(_DTYPES[entry['dtype']]), shape, start + offset)
