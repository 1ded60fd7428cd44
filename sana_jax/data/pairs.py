"""Pairs of images of one prompt, of which one is preferred.

They are lines of the `metadata.jsonl` of a folder:

  {"chosen": "a.png", "rejected": "b.png", "prompt": "a red circle"}

A source has two records for each, the chosen one first, so that caches need
not know of pairs.
"""

from collections.abc import Sequence
import os
from typing import Any, NamedTuple

import numpy as np

from sana_jax.data import captions, facts, files
from sana_jax.data.array_cache import cached_arrays, FAILED_READS
from sana_jax.data.images import DAMAGED, in_threads, try_size_of
from sana_jax.data.picture_folders import LINES, lines_of
from sana_jax.data.records import BadRecord, MAX_BAD_FRACTION
from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.paths import expanded
from sana_jax.printable import printable
from sana_jax.typing import Float, Int

FORM = '{"chosen": NAME, "rejected": NAME, "prompt": TEXT}'
_VERSION = 1  # Version of the cached metadata.


class Pair(NamedTuple):
  """Names of two images, relative to their folder, and their prompt."""

  chosen: str
  rejected: str
  prompt: str


class PairSource:
  """The images of pairs: 2 i is the chosen one of pair i, 2 i + 1 the other."""

  def __init__(
    self,
    path: str | os.PathLike,
    size: int | None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    cache: str | os.PathLike | None = None,
  ):
    """Reads the lines of a folder; those of images come later."""
    del max_bad_fraction  # No record is unusable by its line alone.
    self._root = expanded(path).rstrip('/')
    self._size, self._cache = size, cache
    self._pairs = read(self._root)

  def __len__(self) -> int:
    return 2 * len(self._pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name, prompt = self.name(index), self._pairs[index // 2].prompt
    try:
      return captions.record(
        files.read(f'{self._root}/{name}'),
        facts.Facts({facts.DEFAULT: prompt}),
        index,
        self._size,
      )
    except DAMAGED as error:
      raise BadRecord(name, str(error)) from error

  def name(self, index: int) -> str:
    """Path of a record's image in the folder."""
    return self._pairs[index // 2][index % 2]

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    """(height, width) by the images' headers; 0 for damaged ones."""

    def make():
      rows = in_threads(self._size_of, range(len(self)))
      sizes, failed = zip(*rows)
      return {
        'sizes': np.asarray(sizes, np.int32),
        FAILED_READS: np.sum(failed),
      }

    there = listing(self._root)
    key = ['pairs', _VERSION, self._root, [*map(list, self._pairs)], there]
    return cached_arrays(self._cache, key, make)['sizes']

  def scores(self) -> Float[np.ndarray, 'n']:
    """No image has a score."""
    return np.full(len(self), np.nan, np.float32)

  def _size_of(self, index):
    return try_size_of(
      lambda end: files.read(f'{self._root}/{self.name(index)}', 0, end)
    )


def read(root: str) -> Sequence[Pair]:
  """The pairs of a folder; UserError for none, or for an invalid line."""
  file = f'{root}/{LINES}'
  if not files.exists(file):
    raise UserError(
      f'There is no {file}; write a line like {FORM} for each pair.',
      key='data.path',
      value=root,
      allowed=FORM,
    )
  found = [_pair(file, *numbered) for numbered in lines_of(file)]
  if not found:
    raise UserError(
      f'{file} has no pairs; write a line like {FORM} for each.',
      key='data.path',
      value=root,
      allowed=FORM,
    )
  return found


def listing(root: str) -> dict[str, tuple[int, str]]:
  """(size, version) of the lines and of the images in them, by path."""
  root = expanded(root).rstrip('/')
  there = files.list_recursively(root)
  names = {LINES, *(name for pair in read(root) for name in pair[:2])}
  return {name: there[name] for name in sorted(names) if name in there}


def pairs_of(
  members: Sequence[Int[np.ndarray, '_']],
) -> list[Int[np.ndarray, '_']]:
  """The pairs whose two records are in the same bucket, for each bucket."""
  found = []
  for records in members:
    chosen = records[records % 2 == 0]
    found.append(chosen[np.isin(chosen + 1, records)] // 2)
  return found


def _is_inside(name):
  """Whether a name is the path of a file below its folder."""
  parts = name.split('/')
  return not ({'', '.', '..'} & set(parts) or '\0' in name or '\\' in name)


def _pair(file, number, line):
  try:
    content = parse_json(line)
    values = [content[name] for name in Pair._fields]
    if not all(isinstance(value, str) and value.strip() for value in values):
      raise ValueError('all three must be texts')
    pair = Pair(*values)
    if outside := [name for name in pair[:2] if not _is_inside(name)]:
      raise ValueError(f'{printable(outside[0], 80)} is not in the folder')
    return pair
  except (ValueError, TypeError, LookupError) as error:
    raise UserError(
      f'{file}, line {number}, is no pair ({error}); write {FORM}.',
      key='data.path',
      value=number,
      allowed=FORM,
    ) from error
