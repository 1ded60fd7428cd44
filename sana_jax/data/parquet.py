"""Parquet files with one image per row, as bytes or a path.

The smallest unit that Parquet reads is a column of a row group, so reading a
record reads its row group, of which the last few are cached. For random order,
write row groups of few images (`row_group_size=16`), or use tars.
"""

import bisect
import collections
import contextlib
import dataclasses
import os
import posixpath
import threading
from typing import Any

from absl import logging
import numpy as np
import pyarrow
from pyarrow import parquet

from sana_jax.data import captions, files
from sana_jax.data.array_cache import cached_arrays, FAILED_READS
from sana_jax.data.images import DAMAGED, in_threads, try_size_of
from sana_jax.data.records import BadRecord, BadRecords, MAX_BAD_FRACTION
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.typing import Float, Int

_DAMAGED = (*DAMAGED, pyarrow.ArrowException, KeyError, TypeError)
NAMES = ('*.parquet', '**/*.parquet')  # Patterns of the files in a folder.
_LARGE_GROUP = 2**25  # Bytes from which random access is too slow.
_CACHED_GROUPS = 8


@dataclasses.dataclass(frozen=True)
class Columns:
  """Names of columns.

  Several captions, and their scores in the same order, are separated by commas.
  Without columns `height` and `width`, images' headers are read.
  """

  image: str = 'image'  # Bytes, a path, or Hugging Face's {bytes, path}.
  captions: str = 'caption'
  scores: str = ''
  height: str = 'height'
  width: str = 'width'

  @property
  def texts(self) -> list[str]:
    return _split(self.captions)

  @property
  def numbers(self) -> dict[str, str]:
    """Name of the caption by the column of its score."""
    return dict(zip(_split(self.scores), self.names.values()))

  @property
  def names(self) -> dict[str, str]:
    """Name of the caption by its column; the first one is 'prompt'."""
    first, *others = self.texts
    return {first: captions.DEFAULT} | {name: name for name in others}

  def check(self) -> None:
    """Raises UserError unless each score has a caption."""
    if not self.texts:
      raise UserError(
        f'config.data.columns.captions={self.captions!r} names '
        'no column; set it to those of the captions.'
      )
    if len(self.numbers) < (count := len(_split(self.scores))):
      raise UserError(
        f'config.data.columns.scores={self.scores!r} names {count} columns for '
        f'{len(self.texts)} of captions; name one for each, in their order.'
      )

  def needed(self) -> list[str]:
    return [self.image, *self.texts, *_split(self.scores)]


class ParquetSource:
  """Rows of all files, in the order of the files.

  Files that cannot be opened are skipped and counted in `bad`; a damaged row,
  or one of a damaged row group, raises BadRecord when it is read.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    size: int | None,
    columns: Columns | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    cache: str | os.PathLike | None = None,
  ):
    path = expanded(path)
    self._size, self._cache = size, cache
    self._wanted = columns or Columns()
    self._wanted.check()
    self._files = files.expand(path, NAMES)
    if not self._files:
      raise UserError(
        f'{path} matches no file; set the data path to Parquet '
        "files like 'data/*.parquet' or to their folder."
      )
    self._footers = {}
    shapes = in_threads(self._shape, self._files)
    self.bad = BadRecords(
      max(sum(sum(groups) for groups, _, _ in shapes), len(shapes)),
      max_bad_fraction,
    )
    self._groups = []  # (file, row group); `rows` has the rows of each.
    rows = []
    self.bad.saw_good(sum(sum(groups) for groups, _, _ in shapes))
    for name, (groups, _, reason) in zip(self._files, shapes):
      if reason:
        self.bad.add(BadRecord(name, reason))
      self._groups += [(name, group) for group in range(len(groups))]
      rows += groups
    if not sum(rows):
      raise UserError(f'{path} contains no readable row.')
    self._starts = np.cumsum([0, *rows])
    _warn_of_large_groups(max(largest for _, largest, _ in shapes))
    self._kept, self._lock = collections.OrderedDict(), threading.Lock()

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    group, row = self._place(int(index))
    try:
      columns = self._group(group)
      named, scores = self._captions(columns, row)
      return captions.record(
        self._image(group, columns, row), named, scores, index, self._size
      )
    except _DAMAGED as error:
      raise BadRecord(self._name(group, row), _reason(error)) from error

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) of the columns, else of the images' headers."""
    return self._metadata()['sizes']

  def scores(self) -> Float[np.ndarray, 'n']:
    """CLIP scores that filters compare; NaN if there are none."""
    return self._metadata()['scores']

  def _metadata(self):
    def make():
      parts = in_threads(self._group_metadata, range(len(self._groups)))
      return {
        name: np.concatenate([part[name] for part in parts])
        for name in ('sizes', 'scores', FAILED_READS)
      }

    # Files that could not be opened now may be readable later.
    used = {name: self._files[name] for name, _ in self._groups}
    key = ['parquet', used, dataclasses.asdict(self._wanted)]
    return cached_arrays(self._cache, key, make)

  def _group_metadata(self, group):
    """Sizes and scores of a row group; unknown if it is damaged."""
    rows = int(self._starts[group + 1] - self._starts[group])
    wanted = self._wanted
    sides, failed = [wanted.height, wanted.width], [False]
    try:
      footer = self._footers[self._groups[group][0]]
      present = footer.schema.to_arrow_schema().names
      has_sizes = set(sides) <= set(present)
      columns = self._read_group(
        group, [*wanted.numbers, *(sides if has_sizes else [wanted.image])]
      )
      scores = {
        name: columns[column].floats()
        for column, name in wanted.numbers.items()
      }
      if has_sizes:
        sizes = np.stack([columns[side].floats() for side in sides], axis=1)
      else:
        sizes, failed = zip(
          *(
            try_size_of(
              lambda end, row=row: self._image(group, columns, row, end)
            )
            for row in range(rows)
          )
        )
    except _DAMAGED as error:
      sizes, scores = np.zeros((rows, 2)), {}
      failed = [isinstance(error, _UnreachableError)]
    sizes = np.nan_to_num(np.asarray(sizes, np.float64).reshape(rows, 2))
    return {
      'sizes': sizes.astype(np.int32),
      'scores': _filter_scores(scores, rows),
      FAILED_READS: np.asarray(failed),
    }

  def _captions(self, columns, row):
    named = {
      name: columns[column][row] for column, name in self._wanted.names.items()
    }
    return captions.usable(named), self._scores(columns, row)

  def _scores(self, columns, row):
    return captions.numbers(
      {
        name: columns[column][row]
        for column, name in self._wanted.numbers.items()
      }
    )

  def _image(self, group, columns, row, end=None):
    value = columns[self._wanted.image][row]
    if isinstance(value, dict):
      value = value.get('bytes') or value.get('path')
    if isinstance(value, bytes):
      return value[:end]
    if not value or not isinstance(value, str):
      raise ValueError('it has no image')
    if not files.is_remote(value):  # It is relative to the Parquet file.
      value = posixpath.join(posixpath.dirname(self._groups[group][0]), value)
    return files.read(value, 0, end)

  def _group(self, group):
    """Columns of a row group, from the cache of recent ones if possible."""
    with self._lock:
      if group in self._kept:
        self._kept.move_to_end(group)
        return self._kept[group]
    columns = self._read_group(group, self._wanted.needed())
    with self._lock:
      self._kept[group] = columns
      while len(self._kept) > _CACHED_GROUPS:
        self._kept.popitem(last=False)
    return columns

  def _read_group(self, group, names):
    path, number = self._groups[group]
    with _reading(path) as file:
      table = parquet.ParquetFile(
        file,
        metadata=self._footers[path],
        pre_buffer=True,
      ).read_row_group(number, columns=names)
    return {name: _Lazy(table[name]) for name in names}

  def _shape(self, path):
    """(rows of each group, bytes of the largest, error or '')."""
    try:
      with _reading(path) as file:
        metadata = self._footers[path] = parquet.read_metadata(file)
    except _DAMAGED as error:
      return [], 0, _reason(error)
    present = metadata.schema.to_arrow_schema().names
    if missing := sorted(set(self._wanted.needed()) - set(present)):
      raise UserError(
        f'{path} has no column {", ".join(missing)}; it has '
        f'{", ".join(present)}: set config.data.columns to some of them.'
      )
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return (
      [group.num_rows for group in groups],
      max((group.total_byte_size for group in groups), default=0),
      '',
    )

  def _place(self, index):
    if not 0 <= index < len(self):
      raise IndexError(index)
    group = bisect.bisect_right(self._starts, index) - 1
    return group, index - int(self._starts[group])

  def _name(self, group, row):
    path, number = self._groups[group]
    return f'{path}: row {row} of row group {number}'


class _Lazy:
  """Column whose values are converted to Python's on access."""

  def __init__(self, column):
    self._column = column

  def __getitem__(self, row):
    return self._column[row].as_py()

  def floats(self):
    """All values as floats; NaN if missing."""
    floats = self._column.cast(pyarrow.float64())
    return floats.to_numpy().astype(np.float64)


def _filter_scores(scores, rows):
  """captions.filter_score, for all rows."""
  if not scores:
    return np.full(rows, np.nan, np.float32)
  best = np.fmax.reduce(list(scores.values()))
  prompt = scores.get(captions.DEFAULT, best)
  return np.where(np.isnan(prompt), best, prompt).astype(np.float32)


class _UnreachableError(OSError):
  """A failed read; distinct from pyarrow's OSError for damaged content."""


@dataclasses.dataclass(frozen=True)
class _File:
  """File whose failed reads raise _UnreachableError, through pyarrow."""

  file: Any

  def __getattr__(self, name):
    return getattr(self.file, name)

  def read(self, *size):
    try:
      return self.file.read(*size)
    # Each library of remote files raises its own types.
    except Exception as error:  # noqa: BLE001
      raise _UnreachableError(_reason(error)) from error


@contextlib.contextmanager
def _reading(path):
  try:
    file = files.open_at_random(path)
  except OSError as error:
    raise _UnreachableError(_reason(error)) from error
  with file:
    yield _File(file)


def _warn_of_large_groups(largest):
  if largest > _LARGE_GROUP:
    logging.warning(
      'A row group has %d MB, and reading a record at random reads one; write '
      'the Parquet files with a smaller row_group_size.',
      largest // 2**20,
    )


def _split(names):
  return [name.strip() for name in names.split(',') if name.strip()]


def _reason(error):
  return (str(error) or type(error).__name__).strip().splitlines()[0]
