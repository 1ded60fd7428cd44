"""The one training loop: what is trained is a Task, how is a config.

    config, mesh -> plan -> data -> restore or init -> steps -> model

A run that is killed at any moment and started again ends bit for bit where the
uninterrupted run ends: a checkpoint holds the state and the place in the data,
and a step's randomness follows from the seed and its number.
"""

from collections.abc import Callable
import contextlib
import os
import signal
import threading

from absl import logging
from etils import epath
import grain
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import ml_collections

from sana_jax import config as rules
from sana_jax import locks
from sana_jax.backends import preferred
from sana_jax.errors import in_memory, UserError
from sana_jax.optim import factory
from sana_jax.sharding.mesh import alone, batch_rows, check_batch, whole
from sana_jax.training import agreement, initial, phases, pictures
from sana_jax.training.checkpoints import Checkpoints
from sana_jax.training.local_cache import LocalCache
from sana_jax.training.reporting import log_overview, Report, silence
from sana_jax.training.run_config import claim
from sana_jax.training.state import plan, Task, TrainState
from sana_jax.training.step import Update
from sana_jax.training.watch import Watch
from sana_jax.training.workdir import meet, new_folder, resolve

_SPLIT = ('split the state with --layout fsdp, or over more devices; '
          '`sana-jax plan` says what fits.')


class SkippedUpdates(UserError):
  """Too many updates of a run that is done were skipped: it has no model."""

  exit_code = 1


@in_memory(_SPLIT)
def train(
    config: ml_collections.ConfigDict, task: Task, workdir: epath.PathLike,
    mesh: Mesh, traced_steps: range | None = None,
) -> TrainState:
  """Trains `task` to step `config.num_steps`, going on where `workdir` stopped.

  Keys are those of `sana_jax.config.train`, which says what they mean.
  `traced_steps` are profiled. After a SIGTERM it saves and returns the state
  that it has. Raises UserError.
  """
  rules.check(config)
  check_batch(mesh, config.batch_size, config.accumulate_steps)
  tx, schedule = (make(config.optimizer, config.num_steps, config.batch_size)
                  for make in (factory.make, factory.schedule))
  init, shapes = plan(
      task, tx, mesh, average=config.ema_decay > 0,
      param_dtype=config.param_dtype, trainable=config.trainable)
  initial.check(config, task, workdir)
  init_rng, rng = jax.random.split(jax.random.key(config.seed))
  log_overview(shapes.params)

  with contextlib.ExitStack() as stack:
    use = stack.enter_context
    workdir, lock = begin(use, config, task, workdir, mesh)
    asked_to_stop = use(stop_requests(lock))
    batches = use(contextlib.closing(task.batches(
        seed=config.seed, batch_size=config.batch_size,
        rows=batch_rows(mesh, config.batch_size).tolist())))
    checkpoints = use(Checkpoints(workdir / 'checkpoints', config))
    cache = use(LocalCache(workdir, config))
    state = restore(shapes, batches, checkpoints, cache) or init(
        init_rng, initial.given(config.init_from, task, mesh))
    check_start(start := int(state.step), config.num_steps, workdir)
    watch = use(Watch(
        workdir, config, task, shapes.params, mesh, traced_steps))
    report = use(Report(
        workdir, config, schedule, start, watch, checkpoints.newest,
        lock.is_ours))
    update = Update(
        shapes, mesh, task=task, tx=tx, ema_decay=config.ema_decay, rng=rng,
        batch_size=config.batch_size, accumulate=config.accumulate_steps,
        trainable=config.trainable, phase=watch.phase)
    logging.info('%s: from step %d to %d.', task.name, start, config.num_steps)

    for step in range(start + 1, config.num_steps + 1):
      watch.profile(step, report.flush)
      batch = watch.next(batches)
      with watch.step(step):
        state, metrics = update(state, batch)
        report(step, metrics)
      stop = asked_to_stop(step)
      whole = due(step, config.checkpoint_every_steps, config.num_steps) or stop
      if whole or cache.due(step):
        # Lines up to a saved step are never written again.
        with watch.pause(phases.SAVE, report.sync if whole else report.flush):
          save(step, state, batches, checkpoints, cache, whole, stop, lock)
      if due(step, config.pictures_every_steps, config.num_steps):
        with watch.pause(phases.DRAW, report.flush):
          draw(task, state, step, workdir, report)
      if stop:
        break
      checkpoints.check()

    checkpoints.wait()
    if finish(task, state, workdir, config):
      cache.clear()
  return state


def begin(
    use: Callable, config: ml_collections.ConfigDict, task: Task,
    workdir: epath.PathLike, mesh: Mesh,
):
  """Enters what holds for a whole run; returns its workdir and its lock.

  Raises UserError where another run has the workdir, or it is of another config
  or other data.
  """
  lock = use(hold(workdir))
  workdir = claim(workdir, config)
  agreement.check(workdir, task)
  use(preferred(config.kernels.to_dict(), 'config.kernels'))
  use(jax.set_mesh(mesh))
  use(silence('orbax'))
  return workdir, lock


def hold(workdir: epath.PathLike):
  """The lock of a workdir, held by process 0 for all; a context manager."""
  return locks.hold(locks.within(resolve(workdir)), 'training', '--workdir',
                    shared=True)


def check_start(start: int, num_steps: int, workdir: epath.Path) -> None:
  """Raises UserError where the last step is behind us."""
  if start > num_steps:
    raise UserError(
        f'{workdir} is at step {start} already and num_steps is {num_steps}; '
        'raise num_steps or choose another --workdir.')


def due(step: int, every: int, last: int) -> bool:
  """Whether what happens every so many steps and at the end happens now."""
  return every > 0 and (step % every == 0 or step == last)


@contextlib.contextmanager
def stop_requests(lock: locks.Lock):
  """Yields a function of the step: whether to stop after it.

  A SIGTERM and a lost lock ask for that. Several processes agree on the step
  through JAX's coordination service, which listens for the signal itself.
  Handlers are for the main thread only.
  """
  if jax.process_count() > 1:
    lock.on_loss = lambda: os.kill(os.getpid(), signal.SIGTERM)
    yield multihost_utils.reached_preemption_sync_point
  elif threading.current_thread() is not threading.main_thread():
    yield lambda step: lock.is_lost
  else:
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
      yield lambda step: asked.is_set() or lock.is_lost
    finally:
      signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def restore(
    shapes: TrainState, batches: grain.DatasetIterator,
    checkpoints: Checkpoints, cache: LocalCache,
) -> TrainState | None:
  """The newest state of both, with `batches` at its place, if there is one."""
  return (cache.restore(shapes, batches, checkpoints.latest_step())
          or checkpoints.restore(shapes, batches))


def save(
    step: int, state: TrainState, batches: grain.DatasetIterator,
    checkpoints: Checkpoints, cache: LocalCache, whole: bool, stop: bool, lock,
) -> None:
  """A checkpoint, if the `whole` of it is due, and the host's own if that is.

  Before a stop both are written, and nothing more is done. Raises UserError
  where the workdir's `lock` was lost.
  """
  if whole:
    lock.check_together()
    checkpoints.save(step, state, batches, hurry=stop)
  if stop or cache.due(step):
    cache.save(step, state, batches)


def draw(
    task: Task, state: TrainState, step: int, workdir: epath.Path,
    report: Report,
) -> None:
  """A grid of samples, made by all processes, and the loss curve."""
  image = task.pictures(state.weights, step)
  if jax.process_index() == 0:
    pictures.save_loss_curve(workdir, task.name)
    if image is not None:
      pictures.save_samples(workdir, step, image)
      report.picture(step, image)


def finish(
    task: Task, state: TrainState, workdir: epath.Path,
    config: ml_collections.ConfigDict,
) -> bool:
  """Exports the model after the last step; whether that is done.

  Raises SkippedUpdates.
  """
  if int(state.step) < config.num_steps:
    logging.warning(
        'Stopped by SIGTERM; step %d is saved, and the same command goes on '
        'from there.', state.step)
    return False
  check_skipped(state, config.max_skipped_fraction, workdir)
  export(task, state, workdir)
  return True


def check_skipped(
    state: TrainState, limit: float, workdir: epath.Path) -> None:
  """Logs how many updates were skipped, in all runs of the workdir together.

  Raises SkippedUpdates where that is more than `limit` of those tried: what
  few updates made of the weights is not taken for a trained model.
  """
  skipped, tried = int(state.skipped), int(state.step)
  if not skipped:
    return
  count = (f'{skipped} of {tried} updates ({skipped / tried:.1%}) were not '
           'finite and were skipped')
  if skipped / tried <= limit:
    logging.warning('%s; max_skipped_fraction=%s allows that.', count, limit)
    return
  model = workdir / 'model'
  there = f' ({model} is of an earlier, shorter run)' if model.exists() else ''
  raise SkippedUpdates(
      f'{count}, more than max_skipped_fraction={limit} allows: the state is '
      f'saved, and no model is exported{there}. Look at the data and lower '
      'optimizer.learning_rate; `sana-jax export` writes the weights as they '
      'are, and so does the same command with a higher max_skipped_fraction.')


def export(task: Task, state: TrainState, workdir: epath.Path) -> None:
  """The loss curve and workdir/model, whole or not."""
  params = jax.tree.map(whole, state.weights)
  if jax.process_index() == 0:
    pictures.save_loss_curve(workdir, task.name)
    with jax.set_mesh(alone()), new_folder(workdir / 'model') as part:
      task.export(params, part)
    logging.info('The model is in %s.', workdir / 'model')
  meet('the model is exported')
