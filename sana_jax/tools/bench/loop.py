"""Overhead of the training loop: a run against its compiled step alone.

The run is `training.loop.train`, with its data, log, checkpoints and warnings.
The bare loop calls the same compiled step, from the same state, on one batch
on the devices. They alternate in one process:

    bare  run  bare  run  bare  ...

and each block of the run is compared with the mean of its neighbours, which
cancels a steady drift of the machine.
"""

from collections.abc import Callable, Iterator
import dataclasses
import threading
import time
from typing import NamedTuple

from etils import epath
import grain
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from sana_jax.errors import UserError
from sana_jax.objectives.base import busiest
from sana_jax.sharding.mesh import batch_rows, place_rows
from sana_jax.tools.bench import timing
from sana_jax.training import loop, optimizers
from sana_jax.training.state import Frozen
from sana_jax.training.step import jit_step, options, replicate
from sana_jax.training.task import Task
from sana_jax.typing import PyTree

_WARM_UP = 3  # Steps of a block until its speed is steady.


@dataclasses.dataclass(frozen=True)
class Block:
  """Consecutive steps of one side.

  Attributes:
    seconds: seconds of each step, from end to end.
    waited: seconds of these spent waiting for data.
    saves: checkpoints that were started.
    cpu: CPU seconds of the process, independent of other processes.
  """

  seconds: list[float]
  waited: float = 0.0
  saves: int = 0
  cpu: float = 0.0

  @property
  def total(self) -> float:
    return sum(self.seconds)


class Found(NamedTuple):
  """Result of a measurement.

  Attributes:
    blocks: alternating blocks of the bare loop (first and last) and the run.
    threads: threads that read ahead.
  """

  blocks: list[Block]
  threads: int


def measure(
  config: ConfigDict,
  task: Task,
  workdir: epath.PathLike,
  mesh: Mesh,
  *,
  steps: int,
  rounds: int,
) -> Found:
  """Trains 2 x `rounds` blocks of `steps` steps in an empty `workdir`.

  Every second block has a checkpoint, about in its middle. Sample images and
  exports are disabled.
  """
  config = ConfigDict(config)
  period = steps + _WARM_UP
  # The first half block, which compiles, is not counted.
  config.num_steps = period // 2 + 2 * rounds * period + 1
  config.checkpoint_every_steps = 2 * period
  config.pictures_every_steps = 0
  turns = Turns(period, lambda batch: Bare(config, task, mesh, batch))
  state = loop.train(config, turns.of(task), workdir, mesh)
  if int(state.step) < config.num_steps or int(state.skipped):
    raise UserError(
      'The run was stopped, or its loss was not finite; nothing was measured.',
      key='loss',
      value=int(state.skipped),
      allowed='finite',
    )
  return Found(turns.blocks, turns.threads)


class Bare:
  """Baseline that calls the compiled step on one batch."""

  def __init__(self, config: ConfigDict, task: Task, mesh: Mesh, batch: PyTree):
    planned, size = loop.plan_run(config, task, mesh), config.batch_size
    key, rng = jax.random.split(jax.random.key(config.seed))
    batch = place_rows(batch, batch_rows(mesh, size), mesh, size)
    inputs, rng = replicate((task.frozen, rng), mesh)
    how = options(config, optimizers.make(config, task.objective))
    how['players'] = busiest(task.objective.players)
    with jax.set_mesh(mesh):
      frozen = Frozen(inputs, planned.make_base(key))
      self._state, self._rest = planned.init(key), (frozen, batch, rng)
      step = jit_step(planned.state, mesh, **how)
      self._compiled = step.lower(self._state, *self._rest).compile()

  def __call__(self, steps: int) -> Block:
    """Times `steps` steps, after a few to warm up."""
    self._state, moments = timing.run(
      self._compiled, self._state, self._rest, _WARM_UP + steps
    )
    return _block(moments[_WARM_UP:])


def _block(moments, **more):
  """Block from (wall, CPU) times between its steps, both ends included."""
  wall, cpu = zip(*moments)
  return Block(np.diff(wall).tolist(), cpu=cpu[-1] - cpu[0], **more)


class Turns:
  """Alternates a run with a bare loop between its blocks.

  The first block ends at one and a half periods, so that saves every two
  periods fall in the second, the fourth, ... block. A run requests a batch once
  a step, with one step in flight, so steps are counted by batches.
  """

  def __init__(
    self, period: int, make_bare: Callable[[PyTree], Callable[[int], Block]]
  ):
    """`period`: steps of a block, including the warm-up."""
    self.blocks, self.threads = [], 0
    self._period, self._make_bare = period, make_bare
    self._loop = self._first = None
    self._batches, self._waited = [], []  # In this block, by step.

  def of(self, task: Task) -> Task:
    """The task with alternating batches, and without an export."""
    batches = lambda **how: _Batches(task.data.batches(**how), self)
    data = dataclasses.replace(task.data, batches=batches)
    nothing = lambda params, folder: None
    return dataclasses.replace(task, data=data, export=nothing)

  def next(self, batches: Iterator[PyTree]) -> PyTree:
    """Next batch, returned when it is the run's turn."""
    now = time.perf_counter(), time.process_time()
    if len(self._batches) == (
      self._period if self._loop else self._period // 2
    ):
      self._change_sides(now)
      now = time.perf_counter(), time.process_time()
    threads = threading.active_count()
    batch = next(batches)
    if self._first is None:  # Readers start with the first.
      self._first = batch
      self.threads = threading.active_count() - threads
    self._batches.append(now)
    self._waited.append(time.perf_counter() - now[0])
    return batch

  def _change_sides(self, now):
    if self._loop:
      moments = [*self._batches[_WARM_UP:], now]
      waited, saves = sum(self._waited[_WARM_UP:]), len(self.blocks) // 2 % 2
      self.blocks.append(_block(moments, waited=waited, saves=saves))
    else:
      self._loop = self._make_bare(self._first)
    self.blocks.append(self._loop(self._period - _WARM_UP))
    self._batches, self._waited = [], []


class _Batches(grain.DatasetIterator):
  """A task's batches, each returned when it is the run's turn."""

  def __init__(self, batches, turns):
    super().__init__()
    self._batches, self._turns = batches, turns

  def __next__(self):
    return self._turns.next(self._batches)

  def get_state(self):
    return self._batches.get_state()

  def set_state(self, state):
    self._batches.set_state(state)

  def close(self):
    self._batches.close()
