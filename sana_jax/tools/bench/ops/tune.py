"""Finds the tile sizes that are fastest on this device."""

from collections.abc import Callable, Mapping
import copy
import functools
import importlib
import itertools
import math
from typing import Any, NamedTuple

import jax

from sana_jax.analysis.device import timer
from sana_jax.errors import UserError
from sana_jax.kernels import tuning, UnsupportedError
from sana_jax.tools.bench.ops.cases import Case, OPS
from sana_jax.tools.bench.ops.measure import (
  BOUNDS,
  program,
  reference,
  relative_error,
)

# What compilers say of tiles that are too large, or that they do not know.
_REFUSED = (jax.errors.JaxRuntimeError, NotImplementedError, ValueError)
WORTH = 0.97  # Of the usual time, at most: less is noise.


class Found(NamedTuple):
  """The fastest values, which may be the backend's own, {}."""

  values: dict[str, int]
  seconds: float
  usual_seconds: float
  tried: int


def candidates(op: str, backend: str) -> list[dict[str, int]]:
  """The backend's own choice, then all combinations that it lists."""
  module = OPS[op].kernels[backend].partition(':')[0]
  listed = getattr(importlib.import_module(module), 'CANDIDATES', {})
  if not listed:
    return [{}]
  several = itertools.product(*listed.values())
  return [{}, *(dict(zip(listed, values)) for values in several)]


def tune(
  case: Case,
  training: bool,
  backend: str,
  rounds: int,
  until: Callable[[], bool] = lambda: True,
) -> Found | None:
  """Of one pass, the backward one if `training`.

  None where it cannot run, or has nothing to choose.

  Candidates that do not compile or give wrong results are left out. The
  backend's own choice is none of them: what it raises is raised. No more are
  tried once `until` is false.
  """
  tried = candidates(case.op, backend)
  if len(tried) == 1:
    return None
  inputs, dout = case.arguments()
  want = reference(case, training, inputs, dout)
  timers, seconds = [], []
  for values in tried:
    if timers and not until():
      break
    with tuning.using(training, **values):
      run = functools.partial(program(case, training, backend), inputs, dout)
      try:
        right = relative_error(run(), want) <= BOUNDS[case.dtype]
      except UnsupportedError:
        return None
      except _REFUSED:
        if not values:
          raise
        right = False
    if not (right or values):
      raise UserError(
        f'{case.op} by {backend} is wrong on this device; '
        'sana-jax bench kernels says by how much.'
      )
    timers.append(timer(run) if right else None)
    seconds.append(math.inf)
  for _ in range(rounds):
    for i, seconds_of_a_call in enumerate(timers):
      if seconds_of_a_call:
        seconds[i] = min(seconds[i], seconds_of_a_call())
  best = min(range(len(seconds)), key=seconds.__getitem__)
  if seconds[best] > WORTH * seconds[0]:
    best = 0
  return Found(tried[best], seconds[best], seconds[0], len(timers))


def merged(
  table: Mapping[str, Any],
  case: Case,
  training: bool,
  backend: str,
  found: Found,
) -> dict[str, Any]:
  """A device's table with what was found put in; or taken out, where the
  backend's own choice is the best."""
  table = copy.deepcopy(dict(table))
  rows = table.setdefault(case.op, {}).setdefault(backend, {})
  key = tuning.bucket(training, case.shape, case.dtype)
  rows.pop(key, None)
  if found.values:
    rows[key] = found.values
  return table
