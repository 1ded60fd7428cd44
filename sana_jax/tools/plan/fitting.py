"""Search for the largest batch that fits, and for changes that make one fit."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import itertools
from typing import NamedTuple

from sana_jax.analysis import chips
from sana_jax.tools.plan.candidates import Candidate, copied
from sana_jax.tools.plan.report import Plan

_MOST = 512  # Images per chip.
_COUNT = 3  # Changes that are reported.


def largest(
  fits: Callable[[int], bool], start: int = 4, most: int = _MOST
) -> int:
  """Largest batch that fits, to one part in eight; 0 if none does.

  Doubles, then bisects; if a batch fits, so do smaller ones.
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
  """Candidate with the largest batch that fits, or one image per chip."""
  if candidate.problem:
    return candidate, compiled(candidate)
  found = {}

  def fits(n):
    found[n] = candidate.with_batch(n, pod)
    return compiled(found[n]).fits

  best = found.get(largest(fits)) or candidate.with_batch(1, pod)
  return best, compiled(best)


class Change(NamedTuple):
  """A change in words, and the changed candidate."""

  description: str
  candidate: Candidate


def changes(
  candidate: Candidate, pod: chips.Topology, others: list[Candidate]
) -> Iterator[Change]:
  """Changes that may make a candidate fit, smallest first."""
  config, change = candidate.config, functools.partial(_changed, candidate)
  per_chip, remat = config.batch_size / pod.chips, config.model.get('remat')
  if remat not in (None, 'full', 'offload'):
    yield change('model.remat', 'full')
  if per_chip >= 2 and config.batch_size % (2 * pod.chips) == 0:
    yield change('batch_size', config.batch_size // 2)
    yield change('accumulate_steps', 2 * config.accumulate_steps)
  if config.optimizer.name != 'came_8bit':
    yield change('optimizer.name', 'came_8bit')
  for other in others:
    if not other.problem and other.name != candidate.name:
      changed = copied(other.config)
      changed.batch_size = config.batch_size
      yield Change(f'layout {other.name}', Candidate(other.name, changed))
  if per_chip > 1:
    yield change('batch_size', pod.chips)
  if config.param_dtype != 'bfloat16':
    yield change('param_dtype', 'bfloat16')
  if remat not in (None, 'offload'):
    yield change('model.remat', 'offload')


def _changed(candidate, key, value):
  config = copied(candidate.config)
  config.update_from_flattened_dict({key: value})
  description = f'config.{key}={value!r}'
  return Change(description, dataclasses.replace(candidate, config=config))


def remedies(
  candidate: Candidate,
  pod: chips.Topology,
  others: list[Candidate],
  compiled: Callable[[Candidate], Plan],
) -> list[tuple[str, Plan]]:
  """First three changes after which it fits, each with its compiled plan."""
  tried = (
    (change.description, compiled(change.candidate))
    for change in changes(candidate, pod, others)
  )
  fitting = ((description, plan) for description, plan in tried if plan.fits)
  return list(itertools.islice(fitting, _COUNT))
