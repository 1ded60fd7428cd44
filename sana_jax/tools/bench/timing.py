"""The timer of train steps: compiled, run on random data, and profiled."""

from collections import Counter
import pathlib
import re
import tempfile
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from sana_jax import kernels
from sana_jax.analysis import profile_breakdown
from sana_jax.errors import UserError
from sana_jax.tools.plan import steps
from sana_jax.typing import Array, PyTree

_PROFILED = 2  # Steps of a profile.
# What `on` asks for, of the operations of the transformer.
_OPS = ('relu_linear_attention', 'glumb_conv')
_KERNELS = {'gpu': 'mosaic_gpu', 'tpu': 'mosaic_tpu'}
SIDES = ('off', 'on')  # Kernels.


class Moment(NamedTuple):
  """Seconds by the clock, and those of all threads of the process."""

  wall: float
  cpu: float


class Profile(NamedTuple):
  """Seconds of some steps.

  Attributes:
    times: by kind of operation.
    places: of each kind, by where it is in our code.
    launches: operations that the first device began, of one step.
  """

  times: dict[str, float]
  places: dict[str, Counter]
  steps: int
  launches: float


def backends(side: str) -> dict[str, str]:
  """Of SIDES, by operation; UserError where there are no kernels."""
  if side == 'off':
    return dict.fromkeys(kernels.OPS, 'xla')
  if (platform := jax.default_backend()) not in _KERNELS:
    raise UserError(f'There are no kernels for a {platform}.')
  return dict.fromkeys(_OPS, _KERNELS[platform])


def compiled(program: steps.Program) -> tuple[jax.stages.Compiled, float]:
  """The program, and the seconds that compiling took."""
  began = time.perf_counter()
  step = program.lower().compile()
  return step, time.perf_counter() - began


def arguments(program: steps.Program) -> tuple[PyTree, tuple[PyTree, ...]]:
  """A fresh state, and the rest of a step's arguments, of random numbers."""
  return (program.init(jax.random.key(0)),
          jax.tree.map(filled, program.args[1:]))


def filled(x: jax.ShapeDtypeStruct) -> Array:
  """An array as described, of small numbers."""
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    value = jax.random.key(1)
  elif x.dtype == bool:
    value = np.ones(x.shape, bool)
  else:
    value = np.random.default_rng(0).standard_normal(
      x.shape, np.float32).astype(x.dtype)
  return jax.device_put(value, x.sharding)


def run(
  step: Any, state: PyTree, rest: tuple[PyTree, ...], count: int
) -> tuple[PyTree, list[Moment]]:
  """The state after some steps; the moments before and after each of them.

  While one runs, the next one is handed over, as the training loop does. With
  dozens in flight, XLA's collectives on CPUs hang.
  """
  moments, before = [_now()], None
  for _ in range(count):
    state, metrics = step(state, *rest)
    if before is not None:
      jax.block_until_ready(before)
      moments.append(_now())
    before = metrics
  jax.block_until_ready(before)
  return state, [*moments, _now()]


def _now():
  return Moment(time.perf_counter(), time.process_time())


def mean(moments: list[Moment]) -> float:
  """Seconds of one step."""
  return (moments[-1].wall - moments[0].wall) / (len(moments) - 1)


def rounds(
  step: Any, state: PyTree, rest: tuple[PyTree, ...], repeats: int,
  count: int = 3,
) -> tuple[PyTree, list[float]]:
  """The state, and seconds of a step in each round after a first one."""
  found = []
  for _ in range(repeats + 1):
    state, moments = run(step, state, rest, count)
    found.append(mean(moments))
  check(state)
  return state, found[1:]


def check(state: PyTree) -> None:
  """Raises UserError where a step was skipped."""
  if int(state.skipped):
    raise UserError('The loss was not finite; nothing was measured.')


def profile(
  step: jax.stages.Compiled, state: PyTree, rest: tuple[PyTree, ...]
) -> Profile:
  """Where the time of some steps goes, in a trace."""
  text = step.as_text()
  with tempfile.TemporaryDirectory(prefix='profile') as folder:
    with jax.profiler.trace(folder):
      state, _ = run(step, state, rest, _PROFILED)
      jax.block_until_ready(state)
    module = re.match(r'HloModule ([^,\s]+)', text)[1]
    events = profile_breakdown.events(pathlib.Path(folder), module)
  times, places = profile_breakdown.seconds(
    events, profile_breakdown.operations(text))
  return Profile(times, places, _PROFILED, len(events) / _PROFILED)


def peak_bytes() -> int | None:
  """The most that the fullest device had in use; None where none says."""
  stats = [d.memory_stats() or {} for d in jax.local_devices()]
  return max(s.get('peak_bytes_in_use', 0) for s in stats) or None
