"""The one training loop: what is trained is a Task, how is a config.

    config, mesh -> plan -> data -> base -> restore or init -> steps -> model

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
from sana_jax.sharding.mesh import alone, batch_rows, check_batch
from sana_jax.sharding.mesh import whole as on_host
from sana_jax.training import (
  agreement,
  bases,
  optimizers,
  phases,
  pictures,
  run_config,
  saved,
)
from sana_jax.training.checkpoints import Checkpoints
from sana_jax.training.local_cache import LocalCache
from sana_jax.training.reporting import log_overview, Report, silence
from sana_jax.training.state import (
  first_key,
  Frozen,
  Plan,
  plan,
  TrainState,
  whole,
)
from sana_jax.training.step import options, Update
from sana_jax.training.task import Task
from sana_jax.training.watch import Watch
from sana_jax.training.workdir import meet, new_folder, resolve
from sana_jax.typing import Params

_SPLIT = (
  'split the state with --layout fsdp, or over more devices; '
  '`sana-jax plan` says what fits.'
)


class SkippedUpdates(UserError):
  """Too many updates of a run that is done were skipped: it has no model."""

  exit_code = 1


@in_memory(_SPLIT)
def train(
  config: ml_collections.ConfigDict,
  task: Task,
  workdir: epath.PathLike,
  mesh: Mesh,
  traced_steps: range | None = None,
) -> TrainState:
  """Trains `task` to step `config.num_steps`, going on where `workdir` stopped.

  Keys are those of `sana_jax.config.train`, which says what they mean.
  `traced_steps` are profiled. After a SIGTERM it saves and returns the state
  that it has. Raises UserError.
  """
  rules.check(config)
  check_batch(mesh, config.batch_size, config.accumulate_steps)
  objective, rng = (
    task.objective,
    jax.random.split(jax.random.key(config.seed))[1],
  )
  planned = plan_run(config, task, mesh)
  check_first(config, task, planned, workdir)
  log_overview(whole(planned.state.params, planned.state.extra, planned.base))

  with contextlib.ExitStack() as stack:
    use = stack.enter_context
    workdir, lock, base, origin = begin(
      use, config, task, workdir, mesh, planned
    )
    asked_to_stop = use(stop_requests(lock))
    batches = use(
      contextlib.closing(
        task.data.batches(
          seed=config.seed,
          batch_size=config.batch_size,
          rows=batch_rows(mesh, config.batch_size).tolist(),
        )
      )
    )
    checkpoints = use(Checkpoints(workdir / 'checkpoints', config, origin))
    cache = use(LocalCache(workdir, config, origin))
    state = restore(planned.state, batches, checkpoints, cache) or (
      planned.init(
        first_key(config.seed), bases.given(config.init_from, task.start, mesh)
      )
    )
    check_start(start := int(state.step), config.num_steps, workdir)
    frozen = Frozen(task.frozen, base)
    watch = use(Watch(workdir, config, task, planned, mesh, traced_steps))
    report = use(
      Report(
        workdir,
        config,
        optimizers.schedule(config, objective),
        start,
        watch,
        checkpoints.newest,
        lock.is_ours,
      )
    )
    update = Update(
      planned,
      mesh,
      objective,
      frozen,
      rng=rng,
      batch_size=config.batch_size,
      phase=watch.phase,
      **options(config, optimizers.make(config, objective)),
    )
    logging.info('%s: from step %d to %d.', task.name, start, config.num_steps)

    for step in range(start + 1, config.num_steps + 1):
      watch.profile(step, report.flush)
      batch = watch.next(batches, step - 1)
      with watch.step(step):
        state, metrics = update(state, batch, step - 1)
        report(step, metrics)
      stop = asked_to_stop(step)
      full = due(step, config.checkpoint_every_steps, config.num_steps) or stop
      if full or cache.due(step):
        # Lines up to a saved step are never written again.
        with watch.pause(phases.SAVE, report.sync if full else report.flush):
          save(step, state, batches, checkpoints, cache, full, stop, lock)
      if due(step, config.pictures_every_steps, config.num_steps):
        with watch.pause(phases.DRAW, report.flush):
          draw(task, state, base, step, workdir, report)
      if stop:
        break
      checkpoints.check()

    checkpoints.wait()
    if finish(task, state, base, workdir, config):
      cache.clear()
  return state


def plan_run(config: ml_collections.ConfigDict, task: Task, mesh: Mesh) -> Plan:
  """Where the run of a config lies. Raises UserError for a bad optimizer."""
  return plan(
    task.objective,
    optimizers.make(config, task.objective),
    mesh,
    average=config.ema_decay > 0,
    param_dtype=config.param_dtype,
    trainable=config.trainable,
  )


def check_first(
  config: ml_collections.ConfigDict,
  task: Task,
  planned: Plan,
  workdir: epath.PathLike,
) -> None:
  """Raises UserError where config.init_from, if it is read, is another model.

  It is read at step 0, and for the base of a run at every start.
  """
  begun = saved.steps(resolve(workdir) / 'checkpoints')
  if config.init_from and (planned.base or not begun):
    task.start.check(config.init_from)


def begin(
  use: Callable,
  config: ml_collections.ConfigDict,
  task: Task,
  workdir: epath.PathLike,
  mesh: Mesh,
  planned: Plan,
):
  """Enters what holds for a whole run.

  Returns its workdir, its lock, its base and where that comes from. Raises
  UserError where another run has the workdir, or it is of another config, of
  another base or of other data.
  """
  lock = use(hold(workdir))
  use(preferred(config.kernels.to_dict(), 'config.kernels'))
  use(jax.set_mesh(mesh))
  use(silence('orbax'))
  base, origin = make_base(config, task, workdir, mesh, planned)
  workdir = run_config.claim(workdir, config)
  agreement.check(workdir, task)
  return workdir, lock, base, origin


def make_base(
  config: ml_collections.ConfigDict,
  task: Task,
  workdir: epath.PathLike,
  mesh: Mesh,
  planned: Plan,
) -> tuple[Params, dict | None]:
  """The base, and where it comes from.

  Raises UserError where a run in `workdir` began with another.
  """
  if not planned.base:
    return {}, None
  run_config.compare(workdir, config)  # Before it is loaded.
  base, origin = bases.make(planned, config, task.start, mesh)
  about, _ = run_config.newest_about(workdir)
  if about is not None:
    bases.compare(saved.base_of(about), origin)
  return base, origin


def hold(workdir: epath.PathLike):
  """The lock of a workdir, held by process 0 for all; a context manager."""
  return locks.hold(
    locks.within(resolve(workdir)), 'training', '--workdir', shared=True
  )


def check_start(start: int, num_steps: int, workdir: epath.Path) -> None:
  """Raises UserError where the last step is behind us."""
  if start > num_steps:
    raise UserError(
      f'{workdir} is at step {start} already and num_steps is {num_steps}; '
      'raise num_steps or choose another --workdir.'
    )


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
  shapes: TrainState,
  batches: grain.DatasetIterator,
  checkpoints: Checkpoints,
  cache: LocalCache,
) -> TrainState | None:
  """The newest state of both, with `batches` at its place, if there is one."""
  return cache.restore(
    shapes, batches, checkpoints.latest_step()
  ) or checkpoints.restore(shapes, batches)


def save(
  step: int,
  state: TrainState,
  batches: grain.DatasetIterator,
  checkpoints: Checkpoints,
  cache: LocalCache,
  full: bool,
  stop: bool,
  lock,
) -> None:
  """A checkpoint, if a `full` one is due, and the host's own if that is.

  Before a stop both are written, and nothing more is done. Raises UserError
  where the workdir's `lock` was lost.
  """
  if full:
    lock.check_together()
    checkpoints.save(step, state, batches, hurry=stop)
  if stop or cache.due(step):
    cache.save(step, state, batches)


def draw(
  task: Task,
  state: TrainState,
  base: Params,
  step: int,
  workdir: epath.Path,
  report: Report,
) -> None:
  """A grid of samples, made by all processes, and the loss curve."""
  image = task.pictures(whole(state.weights, state.extra, base), step)
  if jax.process_index() == 0:
    pictures.save_loss_curve(workdir, task.name)
    if image is not None:
      pictures.save_samples(workdir, step, image)
      report.picture(step, image)


def finish(
  task: Task,
  state: TrainState,
  base: Params,
  workdir: epath.Path,
  config: ml_collections.ConfigDict,
) -> bool:
  """Exports the model after the last step; whether that is done.

  Raises SkippedUpdates.
  """
  if int(state.step) < config.num_steps:
    logging.warning(
      'Stopped by SIGTERM; step %d is saved, and the same command goes on '
      'from there.',
      state.step,
    )
    return False
  check_skipped(task, state, config.max_skipped_fraction, workdir)
  export(task, whole(state.weights, state.extra, base), workdir)
  return True


def check_skipped(
  task: Task, state: TrainState, limit: float, workdir: epath.Path
) -> None:
  """Logs how many updates were skipped, in all runs of the workdir together.

  Raises SkippedUpdates where that is more than `limit` of those that a player
  tried: what few updates made of the weights is not taken for a trained model.
  """
  skipped, tried = max(
    (
      (int(state.players[player.name].skipped), player.turns(int(state.step)))
      for player in task.objective.players
    ),
    key=lambda counts: counts[0] / max(1, counts[1]),
  )
  if not skipped:
    return
  count = (
    f'{skipped} of {tried} updates ({skipped / tried:.1%}) were not '
    'finite and were skipped'
  )
  if skipped / tried <= limit:
    logging.warning('%s; max_skipped_fraction=%s allows that.', count, limit)
    return
  model = workdir / 'model'
  there = f' ({model} is of an earlier, shorter run)' if model.exists() else ''
  raise SkippedUpdates(
    f'{count}, more than max_skipped_fraction={limit} allows: the state is '
    f'saved, and no model is exported{there}. Look at the data and lower '
    'optimizer.learning_rate; `sana-jax export` writes the weights as they '
    'are, and so does the same command with a higher max_skipped_fraction.'
  )


def export(task: Task, params: Params, workdir: epath.Path) -> None:
  """The loss curve and workdir/model, whole or not."""
  params = jax.tree.map(on_host, params)
  if jax.process_index() == 0:
    pictures.save_loss_curve(workdir, task.name)
    with jax.set_mesh(alone()), new_folder(workdir / 'model') as part:
      task.export(params, part)
    logging.info('The model is in %s.', workdir / 'model')
  meet('the model is exported')
