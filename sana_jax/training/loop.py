"""The one training loop: what is trained is a Task, how is a config.

    config, mesh -> data -> plan -> restore or init -> steps -> model

A run that is killed at any moment and started again ends bit for bit where the
uninterrupted run ends: a checkpoint holds the state and the place in the data,
and a step's randomness follows from the seed and its number.
"""

from collections.abc import Callable
import contextlib
import signal
import threading
import time

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
import ml_collections

from sana_jax.errors import UserError
from sana_jax.optim import factory
from sana_jax.sharding.mesh import batch_shard, batch_spec
from sana_jax.training import pictures, reporting
from sana_jax.training.checkpoints import Checkpoints
from sana_jax.training.state import plan, Task, TrainState
from sana_jax.training.step import jit_step
from sana_jax.training.workdir import claim, meet
from sana_jax.typing import PyTree

# What may change between two runs in one workdir: how long, where and how
# often, but nothing that changes a step.
FREE_KEYS = (
    'checkpoint_every_steps', 'keep_checkpoints', 'log_every_steps',
    'max_skipped_in_a_row', 'mesh', 'num_steps', 'pictures_every_steps')


def train(
    config: ml_collections.ConfigDict, task: Task, workdir: epath.PathLike,
    mesh: Mesh,
) -> TrainState:
  """Trains `task` to step `config.num_steps`, going on where `workdir` stopped.

  Keys: seed; num_steps; batch_size (of all devices together); log_every_steps;
  checkpoint_every_steps and keep_checkpoints (so many of the last ones);
  pictures_every_steps (0 for none); ema_decay (0 for no average);
  max_skipped_in_a_row (updates that are not finite, before the run stops);
  optimizer (see optim/factory.py). Others are the task's. On SIGTERM it saves
  after the step at hand and returns that state.
  """
  check(config)
  shard = batch_shard(mesh, config.batch_size)
  workdir = claim(workdir, config, FREE_KEYS)
  tx, schedule = factory.make(config.optimizer, config.num_steps)
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.set_mesh(mesh))
    stack.enter_context(reporting.only_warnings_from('orbax'))
    stopping = stack.enter_context(stop_requests())
    batches = stack.enter_context(contextlib.closing(task.batches(
        seed=config.seed, batch_size=config.batch_size // shard[1],
        shard=shard)))
    init, shapes = plan(task, tx, mesh, average=config.ema_decay > 0)
    reporting.log_overview(shapes.params)
    checkpoints = stack.enter_context(Checkpoints(
        workdir / 'checkpoints', keep=config.keep_checkpoints,
        config=config.to_dict()))
    init_rng, rng = jax.random.split(jax.random.key(config.seed))
    state = checkpoints.restore(shapes, batches)
    if state is None:
      state = init(init_rng)
    start = int(state.step)
    logging.info('%s: from step %d to %d.', task.name, start, config.num_steps)
    frozen, rng = replicate(task.frozen, mesh), replicate(rng, mesh)
    update = Compiled(jit_step(
        shapes, mesh, task=task, tx=tx, ema_decay=config.ema_decay))
    report = stack.enter_context(reporting.Report(
        workdir, start=start, num_steps=config.num_steps,
        batch_size=config.batch_size, every_steps=config.log_every_steps,
        max_skipped_in_a_row=config.max_skipped_in_a_row, schedule=schedule))

    for step in range(start + 1, config.num_steps + 1):
      batch = next(batches)
      with jax.transfer_guard('disallow'):  # All transfers are explicit.
        batch = place(batch, mesh, config.batch_size)
        state, metrics = update(state, frozen, batch, rng)
      report(step, metrics)
      checkpoints.check()
      last = step == config.num_steps or stopping(step)
      if last or step % config.checkpoint_every_steps == 0:
        report.flush()  # Metrics of a saved step are never written again.
        checkpoints.save(step, state, batches)
      if last or every(config.pictures_every_steps, step):
        report.flush()
        draw(task, state, step, workdir)
      if last:
        break
    checkpoints.wait()
    if int(state.step) < config.num_steps:
      logging.warning(
          'Stopped by SIGTERM after step %d, which is saved; the same command '
          'goes on from there.', state.step)
    else:
      export(task, state, workdir)
  return state


def check(config: ml_collections.ConfigDict) -> None:
  """Raises one UserError for all values that cannot be."""
  least = dict.fromkeys((
      'num_steps', 'batch_size', 'log_every_steps', 'checkpoint_every_steps',
      'keep_checkpoints', 'max_skipped_in_a_row'), 1)
  problems = [
      f'{key}={config.get(key)!r} is not a whole number of at least {low}'
      for key, low in {**least, 'pictures_every_steps': 0, 'seed': 0}.items()
      if type(config.get(key)) is not int or config[key] < low]
  decay = config.get('ema_decay')
  if not isinstance(decay, (int, float)) or not 0 <= decay < 1:
    problems.append(f'ema_decay={decay!r} is not in [0, 1)')
  if problems:
    raise UserError(f'{"; ".join(problems)}: change these keys of the config.')


class Compiled:
  """A jitted step that says what each compilation took, one a batch's shape."""

  def __init__(self, jitted: Callable):
    self._jitted = jitted
    self._by_shape = {}

  def __call__(self, state: TrainState, frozen: PyTree, batch: PyTree, rng):
    key = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
    if key not in self._by_shape:
      began = time.monotonic()
      step = self._jitted.lower(state, frozen, batch, rng).compile()
      self._by_shape[key] = step
      logging.info('Compiled the step in %.1f s; a device needs %s.',
                   time.monotonic() - began, _memory(step))
    return self._by_shape[key](state, frozen, batch, rng)


def place(batch: PyTree, mesh: Mesh, batch_size: int) -> PyTree:
  """This process's rows as its part of the batch on all devices."""
  sharding = NamedSharding(mesh, batch_spec(mesh))
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          sharding, x, (batch_size, *x.shape[1:])), batch)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Every leaf on every device, but for those that lie on the mesh already."""
  everywhere = NamedSharding(mesh, jax.P())

  def put(x):
    there = getattr(x, 'sharding', None)
    if isinstance(there, NamedSharding) and there.mesh == mesh:
      return x
    return jax.device_put(x, everywhere)
  return jax.tree.map(put, tree)


@contextlib.contextmanager
def stop_requests():
  """Yields `stopping(step)`: whether a SIGTERM asks to stop after this step.

  Several processes agree on the step through JAX's coordination service, which
  listens for the signal itself. Handlers are for the main thread only.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
  elif threading.current_thread() is not threading.main_thread():
    yield lambda step: False
  else:
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
      yield lambda step: asked.is_set()
    finally:
      signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def every(steps: int, step: int) -> bool:
  """Whether something that happens every so many steps (0: never) is due."""
  return steps > 0 and step % steps == 0


def draw(task: Task, state: TrainState, step: int, workdir: epath.Path) -> None:
  """A grid of samples, made by all processes, and the loss curve."""
  image = task.pictures(state.weights, step)
  if jax.process_index() == 0:
    pictures.save_loss_curve(workdir, task.name)
    if image is not None:
      pictures.save_samples(workdir, step, image)


def export(task: Task, state: TrainState, workdir: epath.Path) -> None:
  """Writes the trained model to workdir/model, whole or not at all."""
  if jax.process_count() > 1:
    params = multihost_utils.process_allgather(state.weights, tiled=True)
  else:
    params = jax.device_get(state.weights)
  folder, part = workdir / 'model', workdir / '.model.part'
  if jax.process_index() == 0:
    for old in (part, folder):
      if old.exists():
        old.rmtree()
      if old is part:
        part.mkdir(parents=True)
        task.export(params, part)
    part.rename(folder)
    logging.info('The model is in %s.', folder)
  meet('the model is exported')


def _memory(step) -> str:
  """What the compiler says that the step needs, in GiB."""
  found = step.memory_analysis()
  if found is None:  # Some backends do not tell.
    return 'memory unknown'
  state, rest = found.argument_size_in_bytes, found.temp_size_in_bytes
  return f'{state / 2**30:.2f} GiB of arguments and {rest / 2**30:.2f} GiB more'
