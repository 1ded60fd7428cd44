"""The record in each row of each step: a pure function of the seed.

The step is therefore the only state of a run's data, and batches depend neither
on the number of hosts nor on earlier reads.
"""

from collections.abc import Sequence
import functools
from typing import Protocol, runtime_checkable

import grain
from jaxtyping import Int
import numpy as np

from sana_jax.errors import UserError

_FEW = 1024  # Records of a bucket.


@runtime_checkable
class Order(Protocol):
  """Order of records by step and row; a batch has one bucket."""

  def bucket(self, step: int) -> int:
    """Bucket of the step's batch."""

  def record(self, step: int, row: int) -> int:
    """Index of the record in this row."""

  def substitute(self, step: int, row: int, attempt: int) -> int:
    """Replacement of the same bucket for a record that cannot be used."""


class Bucketed:
  """Order with one bucket per step, so that all hosts use the same shape.

  A cycle has as many steps as there are records; a bucket of n records has n of
  them, in random order. A cycle reads every record `batch_size` times, and the
  numbers of reads of two records of a bucket never differ by more than one. A
  single bucket is read in shuffled epochs.
  """

  def __init__(
    self,
    buckets: Sequence[Int[np.ndarray, '_']],
    batch_size: int,
    seed: int,
    like: 'Bucketed | None' = None,
  ):
    """Draws the order.

    Args:
      buckets: record indices of each bucket; empty ones are never drawn.
      batch_size: global batch size.
      seed: seed of the order of records and of buckets.
      like: order with the same bucket in each step.
    """
    if batch_size < 1:
      raise UserError(
        f'batch_size={batch_size} is not positive; set it to 1 '
        'or more examples.',
        key='batch_size',
        value=batch_size,
        allowed='1 or more',
      )
    sizes = [len(members) for members in buckets]
    if not sum(sizes):
      raise UserError(
        'The data source is empty; set the data path to one with records.',
        key='data.path',
        value=0,
        allowed='1 record or more',
      )
    self._buckets, self._batch_size, self._seed = buckets, batch_size, seed
    self._orders = [_epochs(n, (seed, i)) for i, n in enumerate(sizes)]
    self._schedule = self._turns = None
    self._sizes = sizes if like is None else like._sizes
    if like is not None:
      self._schedule, self._turns = like._schedule, like._turns
    elif sum(n > 0 for n in sizes) > 1:
      self._schedule = np.random.default_rng((seed, 1)).permutation(
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
      )
      self._turns = _ranks(self._schedule, sizes)
    self._only = int(np.argmax(self._sizes))

  def bucket(self, step: int) -> int:
    if self._schedule is None:
      return self._only
    return int(self._schedule[step % len(self._schedule)])

  def record(self, step: int, row: int) -> int:
    bucket = self.bucket(step)
    place = self._turn(step, bucket) * self._batch_size + row
    return int(self._buckets[bucket][self._orders[bucket][place]])

  def substitute(self, step: int, row: int, attempt: int) -> int:
    members = self._buckets[self.bucket(step)]
    rng = np.random.default_rng((self._seed, 2, step, row, attempt))
    return int(members[rng.integers(len(members))])

  def _turn(self, step, bucket):
    """Number of earlier steps with this bucket."""
    if self._schedule is None:
      return step
    cycle, place = divmod(step, len(self._schedule))
    return cycle * self._sizes[bucket] + int(self._turns[place])


class Paired:
  """Order whose odd rows are records of another set, in the same bucket."""

  def __init__(
    self,
    buckets: Sequence[Int[np.ndarray, '_']],
    others: Sequence[Int[np.ndarray, '_']],
    batch_size: int,
    seed: int,
  ):
    """Draws the orders of both; `batch_size` is even, see Bucketed."""
    first = Bucketed(buckets, batch_size // 2, seed)
    self._orders = first, Bucketed(others, batch_size // 2, seed + 1, first)

  def bucket(self, step: int) -> int:
    return self._orders[0].bucket(step)

  def record(self, step: int, row: int) -> int:
    return self._orders[row % 2].record(step, row // 2)

  def substitute(self, step: int, row: int, attempt: int) -> int:
    return self._orders[row % 2].substitute(step, row // 2, attempt)


def shuffled(total: int, batch_size: int, seed: int) -> Bucketed:
  """Order of records in a single bucket: epochs, each shuffled differently."""
  return Bucketed([np.arange(total)], batch_size, seed)


def _epochs(count, seed):
  """Endless shuffled epochs of `count` records, with random access."""
  if count < _FEW:
    return _Epochs(count, seed)
  return grain.MapDataset.range(count).shuffle(_grain_seed(*seed)).repeat()


class _Epochs:
  """Epochs of a few records, for which grain's shuffle takes milliseconds.

  It walks through 2 ** 16 numbers to those below `count`.
  """

  def __init__(self, count, seed):
    self._count = count
    self._order = functools.lru_cache(8)(
      lambda epoch: np.random.default_rng((*seed, 3, epoch)).permutation(count)
    )

  def __getitem__(self, place: int) -> int:
    epoch, place = divmod(place, self._count)
    return int(self._order(epoch)[place])


def _ranks(schedule, sizes):
  """Number of earlier positions with the same value, for each position."""
  ranks = np.empty(len(schedule), np.int64)
  for bucket, size in enumerate(sizes):
    ranks[schedule == bucket] = np.arange(size)
  return ranks


def _grain_seed(*seed):
  # grain's second pass with seed s is its first with s + 1; ours is unrelated.
  return int(np.random.SeedSequence(seed).generate_state(1)[0])
