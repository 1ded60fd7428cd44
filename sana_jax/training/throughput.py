"""How fast a run is, and where its time goes.

    step seconds = from the end of one step to the end of the next, less what
                   saving, drawing, compiling and profiling took of it
    model FLOP/s = the products of the loss and its gradient
                   / step seconds / chips
    MFU          = model FLOP/s / the chip's dense bf16 peak

Where all trains, a step takes three times its forward pass; where something is
frozen, less (see gradient_flops.py). What remat computes again does not count.
A step has ended when its metrics have reached the host, which is one step late,
so that these are times of the devices and not of handing them work.
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
from sana_jax.training import phases
from sana_jax.training.phases import Phases
from sana_jax.training.state import own, Plan, whole
from sana_jax.training.step import passes
from sana_jax.typing import PyTree

# Time that is not a step's, however long it takes.
PAUSES = (phases.SAVE, phases.DRAW, phases.COMPILE, phases.PROFILE)
_PERCENTILES = (50, 90, 99)
_GIB = 2**30


class Throughput:
  """Steps between two log lines: `start` and `end` each, then `line`."""

  def __init__(
    self,
    timed: Phases,
    *,
    batch_size: int,
    chips: int,
    peak_flops: float | None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._timed, self._clock = timed, clock
    self._batch_size, self._chips = batch_size, chips
    self._peak_flops = peak_flops
    self._under_way = collections.deque()  # FLOPs of steps that were started.
    self._last_end = None  # (time, seconds of pauses) when a step ended.
    self._begin_line()

  def _begin_line(self):
    self._seconds, self._flops = [], []
    self._line_began = self._clock()
    self._phases_before = self._timed.seconds()

  def start(self, step_flops: int | None) -> None:
    """A step was handed to the devices; its FLOPs, where they are known."""
    self._under_way.append(step_flops)

  def end(self) -> None:
    """The oldest step under way is done; the first one starts the clock."""
    step_flops = self._under_way.popleft()
    took = self._timed.seconds()
    now = self._clock(), sum(took[name] for name in PAUSES)
    if self._last_end is None:  # It compiled, and loaded who knows what.
      self._last_end = now
      self._begin_line()
      return
    elapsed, paused = (a - b for a, b in zip(now, self._last_end))
    self._seconds.append(max(elapsed - paused, 1e-9))
    self._flops.append(step_flops)
    self._last_end = now

  def line(self) -> dict[str, float]:
    """The metrics of the steps since the last line."""
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
    """Of the wall time since the last line."""
    wall = self._clock() - self._line_began
    took, before = self._timed.seconds(), self._phases_before
    share = lambda *names: (
      round(sum(took[name] - before[name] for name in names) / wall, 4)
      if wall > 0
      else 0.0
    )
    return {
      'data_wait_share': share(phases.DATA),
      'pause_share': share(*PAUSES),
    }


class Work:
  """FLOPs of a step on a batch, counted once for each turn and shape."""

  def __init__(
    self,
    objective: Objective,
    frozen: PyTree,
    planned: Plan,
    batch_size: int,
    phase: Callable = contextlib.nullcontext,
  ):
    """`frozen` may be ShapeDtypeStructs; `batch_size` is of all processes."""
    self._players, self._batch_size = objective.players, batch_size
    self._phase, self._planned = phase, planned
    self._frozen = shapes_of(frozen)
    self._known = {}

  def __call__(self, batch: PyTree, steps: int = 0) -> int | None:
    """After so many `steps`; None, and a word in the log, if that fails."""
    players = turn(self._players, steps)
    key = (
      tuple(player.name for player in players),
      *((x.shape, x.dtype) for x in jax.tree.leaves(batch)),
    )
    if key not in self._known:
      with self._phase(phases.COMPILE):
        self._known[key] = self._count(players, batch)
    return self._known[key]

  def _count(self, players, batch):
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((self._batch_size, *x.shape[1:]), x.dtype),
      batch,
    )
    try:
      return sum(
        of_pass(together, self._planned, self._frozen, batch)
        for together in passes(players)
      )
    except ValueError as error:
      logging.warning('Model FLOP/s and MFU are not reported: %s', error)
      return None


def of_pass(
  players: Sequence[Player],
  planned: Plan,
  frozen: PyTree,
  batch: PyTree,
) -> int:
  """FLOPs of the loss of these players, and of its gradient; of shapes."""
  trained, others = own(planned.state.params, players)
  others = whole(others, planned.state.extra, planned.base)
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
    # Nothing is hidden, so that JAX need not forget what it has traced.
    return jax.make_jaxpr(f)(*args).jaxpr
  return flops.traced(f, *args)


def shapes_of(tree: PyTree) -> PyTree:
  """ShapeDtypeStructs, without shardings."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree
  )


def of_run(timed: Phases, mesh: Mesh, batch_size: int) -> Throughput:
  """For the chips of a mesh, which all are alike."""
  kind = mesh.devices.flat[0].device_kind
  return Throughput(
    timed,
    batch_size=batch_size,
    chips=mesh.size,
    peak_flops=device.peak_flops(kind),
  )


def memory() -> dict[str, float]:
  """GiB in use: of this process, and of its fullest device if that tells."""
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
  """Resident memory of this process, where the system has /proc."""
  with contextlib.suppress(OSError, IndexError, ValueError):
    return 1024 * int(status.read_text().partition('VmRSS:')[2].split()[0])
  return None
