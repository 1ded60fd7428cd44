"""The timer of train steps: compiled, run on random data, and profiled."""

from collections import Counter
from collections.abc import Mapping
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
from sana_jax.tools.bench import resident
from sana_jax.tools.plan import steps
from sana_jax.training.throughput import host_bytes
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


class Measured(NamedTuple):
  """Seconds of a step in each round, by side; bytes in use at most.

  Attributes:
    bytes: of the fullest device; on a CPU, what the process has more than
      before it made the arguments. None where the system does not tell.
    state, rest: to go on with.
  """

  seconds: dict[str, list[float]]
  bytes: int | None
  state: PyTree
  rest: tuple[PyTree, ...]


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


def measure(
  sides: Mapping[str, Any], program: steps.Program, repeats: int, count: int = 3
) -> Measured:
  """Rounds of `count` steps, in which the sides take turns from one state.

  Args:
    sides: compiled forms of the program.
  """
  key = jax.random.key(0)
  init = program.init.lower(key).compile()
  resident.trim()  # Else steps would use what compiling has left.
  before = host_bytes()
  state, rest = init(key), jax.tree.map(filled, program.args[1:])
  seconds = {side: [] for side in sides}
  for number in range(repeats + 1):
    if number == 1:  # The first makes pages and caches.
      resident.trim()
      resident.forget_peak()
    for side, step in sides.items():
      state, moments = run(step, state, rest, count)
      seconds[side].append(mean(moments))
  if int(state.skipped):
    raise UserError('The loss was not finite; nothing was measured.')
  used = peak_bytes()
  if used is None and before is not None:
    used = resident.peak_bytes() - before
  return Measured(
    {side: found[1:] for side, found in seconds.items()}, used, state, rest
  )


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


def filled(x: jax.ShapeDtypeStruct) -> Array:
  """An array as described, of small numbers."""
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    value = jax.random.key(1)
  elif x.dtype == bool:
    value = np.ones(x.shape, bool)
  else:
    value = np.random.default_rng(0).standard_normal(x.shape, np.float32)
    if jax.dtypes.issubdtype(x.dtype, np.integer):  # Pixels or tokens.
      value = np.abs(value)
    value = value.astype(x.dtype)
  return jax.device_put(value, x.sharding)


def profile(
  step: jax.stages.Compiled, state: PyTree, rest: tuple[PyTree, ...]
) -> tuple[PyTree, Profile]:
  """The state after some steps, and where their time goes, by a trace."""
  text = step.as_text()
  with tempfile.TemporaryDirectory(prefix='profile') as folder:
    with jax.profiler.trace(folder):
      state = jax.block_until_ready(run(step, state, rest, _PROFILED)[0])
    module = re.match(r'HloModule ([^,\s]+)', text)[1]
    events = profile_breakdown.events(pathlib.Path(folder), module)
  times, places = profile_breakdown.seconds(
    events, profile_breakdown.operations(text)
  )
  return state, Profile(times, places, _PROFILED, len(events) / _PROFILED)


def peak_bytes() -> int | None:
  """The most that the fullest device had in use; None where none says."""
  stats = [d.memory_stats() or {} for d in jax.local_devices()]
  return max(s.get('peak_bytes_in_use', 0) for s in stats) or None
