"""Which record stands in which row of which step: a pure function of the seed.

So a run needs no saved place but its step, and neither the number of hosts nor
what they have read before changes a batch.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import grain
from jaxtyping import Int
import numpy as np

from sana_jax.errors import UserError


@runtime_checkable
class Order(Protocol):
  """Records by step and row; one batch has one bucket."""

  def bucket(self, step: int) -> int:
    """The bucket of this step's whole batch."""

  def record(self, step: int, row: int) -> int:
    """The record in this row."""

  def substitute(self, step: int, row: int, attempt: int) -> int:
    """Another one of the same bucket, for a record that cannot be used."""


class Bucketed:
  """Steps of one bucket each, so that all hosts take the same shape at once.

  A bucket of n records has n steps in a cycle of as many steps as there are
  records, in random order: a cycle reads every record `batch_size` times, and
  at any time the reads of two records of a bucket differ by one at most. No
  record is left over. With one bucket it is a plain shuffled epoch after epoch.
  """

  def __init__(
    self, buckets: Sequence[Int[np.ndarray, '_']], batch_size: int, seed: int
  ):
    """Args:
    buckets: the records of each; empty ones are never chosen.
    batch_size: of all hosts together.
    seed: of the order of records, and of buckets.
    """
    if batch_size < 1:
      raise UserError(
        f'batch_size={batch_size} is not positive; set it to 1 '
        'or more examples.'
      )
    sizes = [len(members) for members in buckets]
    if not sum(sizes):
      raise UserError(
        'The data source is empty; set the data path to one with records.'
      )
    self._buckets, self._batch_size, self._seed = buckets, batch_size, seed
    self._orders = [
      grain.MapDataset.range(n).shuffle(_grain_seed(seed, i)).repeat()
      for i, n in enumerate(sizes)
    ]
    self._schedule = self._turns = None
    if sum(n > 0 for n in sizes) > 1:
      self._schedule = np.random.default_rng((seed, 1)).permutation(
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
      )
      self._turns = _ranks(self._schedule, sizes)
    self._only = int(np.argmax(sizes))

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
    """How many steps before this one had this bucket."""
    if self._schedule is None:
      return step
    cycle, place = divmod(step, len(self._schedule))
    return cycle * len(self._buckets[bucket]) + int(self._turns[place])


def shuffled(total: int, batch_size: int, seed: int) -> Bucketed:
  """All records in one bucket: epochs, each with its own order."""
  return Bucketed([np.arange(total)], batch_size, seed)


def _ranks(schedule, sizes):
  """For each place, how many places before it have the same value."""
  ranks = np.empty(len(schedule), np.int64)
  for bucket, size in enumerate(sizes):
    ranks[schedule == bucket] = np.arange(size)
  return ranks


def _grain_seed(*seed):
  # grain's second pass with seed s is its first with s + 1; ours is unrelated.
  return int(np.random.SeedSequence(seed).generate_state(1)[0])
