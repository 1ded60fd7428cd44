"""Timer and profiler of compiled train steps on random data."""

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
# Backends of side 'on', for the transformer's ops.
_OPS = ('relu_linear_attention', 'glumb_conv')
_KERNELS = {'gpu': 'mosaic_gpu', 'tpu': 'mosaic_tpu'}
SIDES = ('off', 'on')  # Kernels.


class Moment(NamedTuple):
  """Wall-clock seconds, and CPU seconds of the process."""

  wall: float
  cpu: float


class Measured(NamedTuple):
  """Seconds of a step by side and round, and peak memory.

  Attributes:
    bytes: peak of the fullest device; on a CPU, growth of the process since
      before its arguments. None if unknown.
    state, rest: arguments for further steps.
  """

  seconds: dict[str, list[float]]
  bytes: int | None
  state: PyTree
  rest: tuple[PyTree, ...]


class Profile(NamedTuple):
  """Profile of some steps.

  Attributes:
    times: seconds by kind of operation.
    places: seconds of each kind by source in the code.
    launches: operations per step on the first device.
  """

  times: dict[str, float]
  places: dict[str, Counter]
  steps: int
  launches: float


def backends(side: str) -> dict[str, str]:
  """Backends by op of one of SIDES; raises UserError without kernels."""
  if side == 'off':
    return dict.fromkeys(kernels.OPS, 'xla')
  if (platform := jax.default_backend()) not in _KERNELS:
    raise UserError(
      f'There are no kernels for a {platform}.',
      key='--kernels',
      value=platform,
      allowed=_KERNELS,
    )
  return dict.fromkeys(_OPS, _KERNELS[platform])


def compiled(program: steps.Program) -> tuple[jax.stages.Compiled, float]:
  """(compiled program, seconds of compilation)."""
  began = time.perf_counter()
  step = program.lower().compile()
  return step, time.perf_counter() - began


def measure(
  sides: Mapping[str, Any], program: steps.Program, repeats: int, count: int = 3
) -> Measured:
  """Times rounds of `count` steps; the sides alternate from one state.

  Args:
    sides: compiled forms of the program.
  """
  key = jax.random.key(0)
  init = program.init.lower(key).compile()
  resident.trim()  # Otherwise steps would reuse memory freed by the compiler.
  before = host_bytes()
  state, rest = init(key), jax.tree.map(filled, program.args[1:])
  seconds = {side: [] for side in sides}
  for number in range(repeats + 1):
    if number == 1:  # The first round fills pages and caches.
      resident.trim()
      resident.forget_peak()
    for side, step in sides.items():
      state, moments = run(step, state, rest, count)
      seconds[side].append(mean(moments))
  if int(state.skipped):
    raise UserError(
      'The loss was not finite; nothing was measured.',
      key='loss',
      value=int(state.skipped),
      allowed='finite',
    )
  used = peak_bytes()
  if used is None and before is not None:
    used = resident.peak_bytes() - before
  return Measured(
    {side: found[1:] for side, found in seconds.items()}, used, state, rest
  )


def run(
  step: Any, state: PyTree, rest: tuple[PyTree, ...], count: int
) -> tuple[PyTree, list[Moment]]:
  """Runs steps with one in flight, as the training loop does.

  Returns the state, and the moments before and after each step. With dozens in
  flight, XLA's collectives on CPUs hang.
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
  """Mean seconds of a step."""
  return (moments[-1].wall - moments[0].wall) / (len(moments) - 1)


def filled(x: jax.ShapeDtypeStruct) -> Array:
  """An array of this shape and sharding, filled with small numbers."""
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
  """Traces some steps; returns the state and a Profile."""
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
  """Peak bytes in use on the fullest device; None if unknown."""
  stats = [d.memory_stats() or {} for d in jax.local_devices()]
  return max(s.get('peak_bytes_in_use', 0) for s in stats) or None
