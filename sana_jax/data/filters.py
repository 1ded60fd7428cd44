"""Selection of records by metadata, without decoding images."""

from collections.abc import Sequence
from typing import Any

from absl import logging
import numpy as np

from sana_jax.data.records import name_of
from sana_jax.errors import UserError
from sana_jax.printable import counted
from sana_jax.typing import Bool, Float, Int


class Subset:
  """Subset of a source's records."""

  def __init__(self, source, indices: Sequence[int] | np.ndarray):
    self.source, self.indices = source, np.asarray(indices, np.int64)

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.source[int(self.indices[index])]

  def name(self, index: int) -> str:
    """Name of a record, for reports."""
    return name_of(self.source, int(self.indices[index]))

  def sizes(self) -> Int[np.ndarray, 'n 2']:
    return self.source.sizes()[self.indices]

  def scores(self) -> Float[np.ndarray, 'n']:
    return self.source.scores()[self.indices]

  def repeats(self) -> Int[np.ndarray, 'n']:
    return repeats_of(self.source)[self.indices]


def repeats_of(source) -> Int[np.ndarray, 'n']:
  """Relative frequencies of a source's records, all 1 if it has none."""
  of_each = getattr(source, 'repeats', None)
  return of_each() if of_each else np.ones(len(source), np.int64)


def reasons_to_drop(
  sizes: Int[np.ndarray, 'n 2'] | None,
  scores: Float[np.ndarray, 'n'] | None,
  *,
  min_score: float = 0.0,
  min_size_px: int = 0,
  max_aspect_ratio: float = 0.0,
) -> dict[str, Bool[np.ndarray, 'n']]:
  """Masks of the records that each condition drops; 0 disables a condition.

  Unknown values are kept: records without a score (as in the official code),
  and those whose header cannot be read, which are counted as bad when they are
  read.

  Args:
    sizes: (height, width); 0 if unknown.
    scores: CLIP scores; NaN if unknown.
    min_score: least score; published runs use 22.
    min_size_px: least length of the shorter side.
    max_aspect_ratio: greatest ratio of the longer side to the shorter.
  """
  out = {}
  if min_score > 0:
    out[f'a score below {min_score:g}'] = scores < min_score
  if min_size_px > 0 or max_aspect_ratio > 0:
    known = sizes.min(axis=1) > 0
    short, long = sizes.min(axis=1), sizes.max(axis=1)
  if min_size_px > 0:
    out[f'a side shorter than {min_size_px} px'] = known & (short < min_size_px)
  if max_aspect_ratio > 0:
    out[f'an aspect ratio above {max_aspect_ratio:g}'] = known & (
      long > max_aspect_ratio * short
    )
  return out


def filtered(
  source,
  *,
  min_score: float = 0.0,
  min_size_px: int = 0,
  max_aspect_ratio: float = 0.0,
):
  """The source without the dropped records; see reasons_to_drop."""
  limits = dict(
    min_score=min_score,
    min_size_px=min_size_px,
    max_aspect_ratio=max_aspect_ratio,
  )
  reasons = reasons_to_drop(
    source.sizes() if min_size_px or max_aspect_ratio else None,
    source.scores() if min_score else None,
    **limits,
  )
  if not reasons:
    return source
  dropped = np.any(list(reasons.values()), axis=0)
  counts = ', '.join(
    f'{counted(int(np.sum(which)), "has", "have")} {reason}'
    for reason, which in reasons.items()
  )
  indices = np.flatnonzero(~dropped)
  if not len(indices):
    raise UserError(
      f'None of {counted(len(source), "record")} is left: {counts}; lower '
      'config.data.min_score or config.data.min_size_px, or raise '
      'config.data.max_aspect_ratio.',
      key='data',
      value={name: limit for name, limit in limits.items() if limit},
    )
  logging.info(
    'Kept %d of %s: %s.',
    len(indices),
    counted(len(source), 'record'),
    counts,
  )
  return Subset(source, indices)
