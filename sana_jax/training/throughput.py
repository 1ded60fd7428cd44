"""Speed of a run, and shares of its time.

    step seconds = from the end of one step to the end of the next, minus the
                   time of saving, drawing, compiling and profiling
    model FLOP/s = FLOPs of the matmuls of the loss and its gradient
                   / step seconds / chips
    MFU          = model FLOP/s / the chip's dense bf16 peak

If everything is trainable, a step takes three times the FLOPs of its forward
pass; if something is frozen, fewer (see gradient_flops.py). Recomputation by
remat does not count. A step ends when its metrics reach the host, one step
late, so that device time is measured and not dispatch.
"""

import collections
from collections.abc import Callable, Sequence
import contextlib
import pathlib
import time

from absl import logging
import jax
from jax.sharding import Mesh
import numpy as np

from sana_jax import kernels
from sana_jax.analysis import device, flops, gradient_flops
from sana_jax.objectives.base import Objective, Player, turn
from sana_jax.optim import freezing
from sana_jax.training import timers
from sana_jax.training.state import merge, Plan, split_players
from sana_jax.training.step import passes
from sana_jax.training.timers import PhaseTimers
from sana_jax.typing import PyTree

# Phases whose time is not part of a step's.
PAUSES = (timers.SAVE, timers.DRAW, timers.COMPILE, timers.PROFILE)
_PERCENTILES = (50, 90, 99)
_GIB = 2**30


class Throughput:
  """Statistics of the steps between two log lines.

  `start` and `end` are called for each step, `line` for each log line.
  """

  def __init__(
    self,
    timed: PhaseTimers,
    *,
    batch_size: int,
    chips: int,
    peak_flops: float | None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._timed, self._clock = timed, clock
    self._batch_size, self._chips = batch_size, chips
    self._peak_flops = peak_flops
    self._in_flight = collections.deque()  # FLOPs of started steps.
    self._last_end = None  # (time, pause seconds) at the last end of a step.
    self._begin_line()

  def _begin_line(self):
    self._seconds, self._flops = [], []
    self._line_began = self._clock()
    self._phases_before = self._timed.seconds()

  def start(self, step_flops: int | None) -> None:
    """Records that a step was dispatched, and its FLOPs if known."""
    self._in_flight.append(step_flops)

  def end(self) -> None:
    """Records the end of the oldest step in flight; the first starts timing."""
    step_flops = self._in_flight.popleft()
    took = self._timed.seconds()
    now = self._clock(), sum(took[name] for name in PAUSES)
    if self._last_end is None:  # It includes compilation and loading.
      self._last_end = now
      self._begin_line()
      return
    elapsed, paused = (a - b for a, b in zip(now, self._last_end))
    self._seconds.append(max(elapsed - paused, 1e-9))
    self._flops.append(step_flops)
    self._last_end = now

  def line(self) -> dict[str, float]:
    """Metrics of the steps since the last line."""
    found = self._shares() | memory()
    if self._seconds:
      total = sum(self._seconds)
      at = np.percentile(self._seconds, _PERCENTILES)
      found |= {
        f'step_seconds/p{p}': round(float(x), 6)
        for p, x in zip(_PERCENTILES, at)
      }
      found['images_per_second_per_chip'] = round(
        self._batch_size * len(self._seconds) / total / self._chips, 3
      )
      if None not in self._flops:
        rate = sum(self._flops) / total / self._chips
        found['model_tflops_per_second_per_chip'] = round(rate / 1e12, 6)
        if self._peak_flops:
          found['mfu'] = round(rate / self._peak_flops, 4)
    self._begin_line()
    return found

  def _shares(self) -> dict[str, float]:
    """Shares of the wall time since the last line."""
    wall = self._clock() - self._line_began
    took, before = self._timed.seconds(), self._phases_before
    share = lambda *names: (
      round(sum(took[name] - before[name] for name in names) / wall, 4)
      if wall > 0
      else 0.0
    )
    return {
      'data_wait_share': share(timers.DATA),
      'pause_share': share(*PAUSES),
    }


class StepFlops:
  """FLOPs of a step on a batch, counted once per set of players and shape."""

  def __init__(
    self,
    objective: Objective,
    frozen: PyTree,
    planned: Plan,
    batch_size: int,
    phase: Callable = contextlib.nullcontext,
  ):
    """A counter for `planned`.

    Args:
      frozen: arrays or ShapeDtypeStructs.
      batch_size: the global one, of all processes.
    """
    self._players, self._batch_size = objective.players, batch_size
    self._phase, self._planned = phase, planned
    self._frozen = shapes_of(frozen)
    self._cache = {}

  def __call__(self, batch: PyTree, steps: int = 0) -> int | None:
    """FLOPs of the step after `steps`; None, with a warning, if it fails."""
    players = turn(self._players, steps)
    key = (
      tuple(player.name for player in players),
      *((x.shape, x.dtype) for x in jax.tree.leaves(batch)),
    )
    if key not in self._cache:
      with self._phase(timers.COMPILE):
        self._cache[key] = self._count(players, batch)
    return self._cache[key]

  def _count(self, players, batch):
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((self._batch_size, *x.shape[1:]), x.dtype),
      batch,
    )
    try:
      return sum(
        pass_flops(together, self._planned, self._frozen, batch)
        for together in passes(players)
      )
    except ValueError as error:
      logging.warning('Model FLOP/s and MFU are not reported: %s', error)
      return None


def pass_flops(
  players: Sequence[Player],
  planned: Plan,
  frozen: PyTree,
  batch: PyTree,
) -> int:
  """FLOPs of the loss of these players and its gradient, from shapes."""
  trained, others = split_players(planned.state.params, players)
  others = merge(others, planned.state.extra, planned.base)
  size = jax.tree.leaves(batch)[0].shape[0]
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))

  def loss(trained, others, *args):
    return players[0].loss(freezing.join(trained, others), *args)[0]

  jaxpr = _traced(
    loss,
    *shapes_of((trained, others)),
    frozen,
    batch,
    keys,
    jax.ShapeDtypeStruct((), jax.numpy.int32),
  )
  count = len(jax.tree.leaves(trained))
  return gradient_flops.of_training(
    jaxpr, [i < count for i, _ in enumerate(jaxpr.invars)]
  )


def _traced(f, *args):
  if all(op.is_plain for op in kernels.OPS.values()):
    # No kernel hides FLOPs, so that JAX can keep its tracing cache.
    return jax.make_jaxpr(f)(*args).jaxpr
  return flops.traced(f, *args)


def shapes_of(tree: PyTree) -> PyTree:
  """ShapeDtypeStructs, without shardings."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree
  )


def for_mesh(timed: PhaseTimers, mesh: Mesh, batch_size: int) -> Throughput:
  """Throughput for the chips of a mesh, all of one kind."""
  kind = mesh.devices.flat[0].device_kind
  return Throughput(
    timed,
    batch_size=batch_size,
    chips=mesh.size,
    peak_flops=device.peak_flops(kind),
  )


def memory() -> dict[str, float]:
  """GiB in use by this process, and by its fullest device if reported."""
  found = {}
  stats = [s for d in jax.local_devices() if (s := d.memory_stats())]
  for name, key in (
    ('device_memory_gib', 'bytes_in_use'),
    ('device_memory_peak_gib', 'peak_bytes_in_use'),
  ):
    if sizes := [s[key] for s in stats if key in s]:
      found[name] = round(max(sizes) / _GIB, 3)
  if size := host_bytes():
    found['host_memory_gib'] = round(size / _GIB, 3)
  return found


def host_bytes(
  status: pathlib.Path = pathlib.Path('/proc/self/status'),
) -> int | None:
  """Resident memory of this process; None without /proc."""
  with contextlib.suppress(OSError, IndexError, ValueError):
    return 1024 * int(status.read_text().partition('VmRSS:')[2].split()[0])
  return None
