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

from sana_jax.data import captions, facts, files
from sana_jax.data.array_cache import cached_arrays, FAILED_READS
from sana_jax.data.images import DAMAGED, in_threads, try_size_of
from sana_jax.data.records import BadRecord, BadRecords, MAX_BAD_FRACTION
from sana_jax.data.remarks import Remarks, unread_beside
from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.typing import Float, Int

_DAMAGED = (*DAMAGED, pyarrow.ArrowException, KeyError, TypeError)
NAMES = ('*.parquet', '**/*.parquet')  # Patterns of the files in a folder.
_LARGE_GROUP = 2**25  # Bytes from which random access is too slow.
_CACHED_GROUPS = 8
_VERSION = 2  # Version of the cached metadata.


@dataclasses.dataclass(frozen=True)
class Columns:
  """Names of columns.

  Several captions, and their scores in the same order, are separated by commas.
  A column of captions may hold lists, or objects of texts by name. Headers of
  images are read in rows without a `height` and `width`.
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
        'no column; set it to those of the captions.',
        key='data.columns.captions',
        value=self.captions,
      )
    if len(self.numbers) < (count := len(_split(self.scores))):
      raise UserError(
        f'config.data.columns.scores={self.scores!r} names {count} columns for '
        f'{len(self.texts)} of captions; name one for each, in their order.',
        key='data.columns.scores',
        value=self.scores,
        allowed=list(self.texts),
      )

  def needed(self) -> list[str]:
    return [self.image, *self.texts, *_split(self.scores)]


class ParquetSource:
  """Rows of all files, in the order of the files.

  Files that cannot be opened are skipped and counted in `bad`, files of other
  kinds in `remarks`; a damaged row, or one of a damaged row group, raises
  BadRecord when it is read.
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
    at = dict(key='data.path', value=path)
    self._size, self._cache = size, cache
    self._wanted = columns or Columns()
    self._wanted.check()
    self._files = files.expand(path, NAMES)
    self.remarks = Remarks()
    self.remarks.add_all(unread_beside(path, self._files))
    if not self._files:
      raise UserError(
        f'{path} matches no file; set the data path to Parquet files like '
        f"'data/*.parquet' or to their folder{self.remarks.summary()}.",
        **at,
        allowed=NAMES,
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
      raise UserError(f'{path} contains no readable row.', **at)
    self._starts = np.cumsum([0, *rows])
    _warn_of_large_groups(max(largest for _, largest, _ in shapes))
    self._kept, self._lock = collections.OrderedDict(), threading.Lock()

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    group, row = self._place(int(index))
    try:
      columns = self._group(group)
      found = self._facts(columns, row)
      return captions.record(
        self._image(group, columns, row), found, index, self._size
      )
    except _DAMAGED as error:
      raise BadRecord(self._name(group, row), _reason(error)) from error

  def name(self, index: int) -> str:
    """File and row of a record."""
    return self._name(*self._place(index))

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
    key = ['parquet', _VERSION, used, dataclasses.asdict(self._wanted)]
    return cached_arrays(self._cache, key, make)

  def _group_metadata(self, group):
    """Sizes and scores of a row group's rows; unknown for damaged ones."""
    rows = int(self._starts[group + 1] - self._starts[group])
    footer = self._footers[self._groups[group][0]]
    present = footer.schema.to_arrow_schema().names
    sides = [self._wanted.height, self._wanted.width]
    wanted = [*self._wanted.numbers, *sides]
    columns, failed = self._read_each(group, set(wanted) & set(present))
    sizes = _sizes(*(_floats(columns.get(side), rows) for side in sides))
    if not sizes.all():
      more, unread = self._read_each(group, [self._wanted.image])
      failed += unread
      for row in np.flatnonzero(~sizes.all(axis=1)) if more else ():
        sizes[row], unread = try_size_of(
          lambda end, row=int(row): self._image(group, more, row, end)
        )
        failed += unread
    return {
      'sizes': sizes,
      'scores': self._filter_scores(columns, rows),
      FAILED_READS: np.asarray([failed]),
    }

  def _filter_scores(self, columns, rows):
    """facts.filter_score, for all rows."""
    named = {
      name: columns[column]
      for column, name in self._wanted.numbers.items()
      if column in columns
    }
    try:
      scores = {name: column.floats() for name, column in named.items()}
    except _DAMAGED:  # Lists, or a value that is no number.
      scores = [
        facts.filter_score(self._scores(columns, row)) for row in range(rows)
      ]
      return np.asarray(scores, np.float32)
    unknown = np.full(rows, np.nan)
    best = np.fmax.reduce([unknown, *scores.values()])
    prompt = scores.get(facts.DEFAULT, unknown)
    return np.where(np.isnan(prompt), best, prompt).astype(np.float32)

  def _read_each(self, group, names):
    """(the columns that can be read, number of failed reads)."""
    try:
      return self._read_group(group, sorted(names)), 0
    except _DAMAGED as error:
      if len(names) <= 1:
        return {}, int(isinstance(error, _UnreachableError))
    found = [self._read_each(group, [name]) for name in names]
    return {
      name: column for columns, _ in found for name, column in columns.items()
    }, sum(failed for _, failed in found)

  def _facts(self, columns, row):
    named = {}
    for column, name in self._wanted.names.items():
      named |= facts.named(name, columns[column][row])
    return facts.Facts(facts.usable(named), self._scores(columns, row))

  def _scores(self, columns, row):
    named = {}
    for column, name in self._wanted.numbers.items():
      named |= facts.named(name, _at(columns.get(column), row))
    return facts.numbers(named)

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
        file, metadata=self._footers[path], pre_buffer=True
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
        f'{", ".join(present)}: set config.data.columns to some of them.',
        key='data.columns',
        value=missing,
        allowed=present,
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


def _floats(column, rows):
  """Values of a column as floats; NaN for what is no number."""
  if column is None:
    return np.full(rows, np.nan)
  try:
    return column.floats()
  except _DAMAGED:  # One value is no number.
    found = [facts.numbers({'': _at(column, row)}) for row in range(rows)]
    return np.asarray([number.get('', np.nan) for number in found], np.float64)


def _sizes(height, width):
  """facts.size_of, for all rows."""
  sizes = np.stack([height, width], axis=1)
  known = (sizes >= 1).all(axis=1) & (sizes < 2**31).all(axis=1)
  return np.where(known[:, None], sizes, 0).astype(np.int32)


def _at(column, row):
  """A value of a column; None if it is missing or damaged."""
  try:
    return None if column is None else column[row]
  except _DAMAGED:
    return None


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
