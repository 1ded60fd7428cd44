"""Search for the fastest tile sizes on this device."""

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

# Compiler errors for tiles that are too large or unsupported.
_REFUSED = (jax.errors.JaxRuntimeError, NotImplementedError, ValueError)
WORTH = 0.97  # Largest ratio to the default's time; closer is noise.


class Found(NamedTuple):
  """Fastest values; {} for the backend's default."""

  values: dict[str, int]
  seconds: float
  usual_seconds: float
  tried: int


def candidates(op: str, backend: str) -> list[dict[str, int]]:
  """The backend's default {}, then all combinations of its options."""
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
  """Fastest values of the forward pass, or of the backward if `training`.

  None if the backend cannot run or has no options. Candidates that do not
  compile or are wrong are skipped, but errors of the default are raised. Stops
  once `until` is false.
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
        'sana-jax bench kernels prints its error.',
        key=case.op,
        value=backend,
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
  """A device's table with the result merged: added, or removed if the
  backend's default is fastest."""
  table = copy.deepcopy(dict(table))
  rows = table.setdefault(case.op, {}).setdefault(backend, {})
  key = tuning.bucket(training, case.shape, case.dtype)
  rows.pop(key, None)
  if found.values:
    rows[key] = found.values
  return table
