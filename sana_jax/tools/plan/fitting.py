"""The largest batch that fits, and what would make fit what does not."""

from collections.abc import Callable, Iterator
import dataclasses

from ml_collections import ConfigDict

from sana_jax.analysis import chips
from sana_jax.tools.plan.candidates import Candidate, copied
from sana_jax.tools.plan.report import Plan

_MOST = 512  # Images a chip.
_COUNT = 3  # Changes that are told.


def largest(
  fits: Callable[[int], bool],
  start: int = 4,
  most: int = _MOST,
) -> int:
  """The largest batch that fits, to one part in eight; 0 where none does.

  A batch that fits implies the smaller ones. Doubles, then halves the interval.
  """
  low, high = 0, start
  while high <= most and fits(high):
    low, high = high, 2 * high
  while high - low > max(1, low // 8):
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return low


def fit(
  candidate: Candidate,
  pod: chips.Topology,
  compiled: Callable[[Candidate], Plan],
) -> tuple[Candidate, Plan]:
  """The candidate with the largest batch that fits; with one image a chip
  where none does."""
  if candidate.problem:
    return candidate, compiled(candidate)
  found = {}

  def fits(n):
    found[n] = candidate.with_batch(n, pod)
    return compiled(found[n]).fits

  best = found.get(largest(fits)) or candidate.with_batch(1, pod)
  return best, compiled(best)


@dataclasses.dataclass(frozen=True)
class Change:
  """What to do differently, and what becomes of it."""

  said: str
  candidate: Candidate


def changes(
  candidate: Candidate, pod: chips.Topology, others: list[Candidate]
) -> Iterator[Change]:
  """What may make a candidate fit, the least change first."""
  config = candidate.config
  model, chips_ = config.model, pod.chips
  per_chip = config.batch_size / chips_
  remat = model.get('remat')
  if remat not in (None, 'full', 'offload'):
    yield _changed(
      candidate, "model.remat='full'", lambda c: c.model.update(remat='full')
    )
  if per_chip >= 2 and config.batch_size % (2 * chips_) == 0:
    yield _changed(
      candidate,
      f'batch_size={config.batch_size // 2}',
      lambda c: c.update(batch_size=config.batch_size // 2),
    )
    yield _changed(
      candidate,
      f'accumulate_steps={2 * config.accumulate_steps}',
      lambda c: c.update(accumulate_steps=2 * config.accumulate_steps),
    )
  if config.optimizer.name != 'came_8bit':
    yield _changed(
      candidate,
      "optimizer.name='came_8bit'",
      lambda c: c.optimizer.update(name='came_8bit'),
    )
  for other in others:
    if not other.problem and other.name != candidate.name:
      changed = copied(other.config)
      changed.batch_size = config.batch_size
      yield Change(f'layout {other.name}', Candidate(other.name, changed))
  if per_chip > 1:
    yield _changed(
      candidate, f'batch_size={chips_}', lambda c: c.update(batch_size=chips_)
    )
  if config.param_dtype != 'bfloat16':
    yield _changed(
      candidate,
      "param_dtype='bfloat16'",
      lambda c: c.update(param_dtype='bfloat16'),
    )
  if remat not in (None, 'offload'):
    yield _changed(
      candidate,
      "model.remat='offload'",
      lambda c: c.model.update(remat='offload'),
    )


def remedies(
  candidate: Candidate,
  pod: chips.Topology,
  others: list[Candidate],
  compiled: Callable[[Candidate], Plan],
) -> list[tuple[str, Plan]]:
  """The first three changes after which it fits, each compiled."""
  found = []
  for change in changes(candidate, pod, others):
    plan = compiled(change.candidate)
    if plan.fits:
      found.append((change.said, plan))
    if len(found) == _COUNT:
      break
  return found


def _changed(candidate, said, change: Callable[[ConfigDict], None]):
  config = copied(candidate.config)
  change(config)
  return Change(f'config.{said}', dataclasses.replace(candidate, config=config))
