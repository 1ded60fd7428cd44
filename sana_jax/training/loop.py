"""The training loop, for any Task and config.

    config, mesh -> plan -> data -> base -> restore or init -> steps -> model

A run that is killed at any moment and restarted ends bit for bit as the
uninterrupted run: a checkpoint holds the state and the position in the data,
and a step's randomness follows from the seed and its number.
"""

from collections.abc import Callable
import contextlib
import functools
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
from sana_jax.errors import explain_out_of_memory
from sana_jax.sharding.mesh import check_batch
from sana_jax.training import (
  optimizers,
  pictures,
  timers,
)
from sana_jax.training.checkpoints import Checkpoints
from sana_jax.training.completion import finish
from sana_jax.training.local_cache import LocalCache
from sana_jax.training.monitoring import Monitor
from sana_jax.training.reporting import log_overview, Report
from sana_jax.training.startup import (
  begin,
  check_first,
  check_start,
  first_state,
  open_batches,
  restore,
)
from sana_jax.training.state import (
  Frozen,
  merge,
  Plan,
  plan,
  TrainState,
)
from sana_jax.training.step import options, Update
from sana_jax.training.task import Task
from sana_jax.typing import Params

_SPLIT = (
  'split the state with --layout fsdp, or over more devices; '
  '`sana-jax plan` shows what fits.'
)


@explain_out_of_memory(_SPLIT)
def train(
  config: ml_collections.ConfigDict,
  task: Task,
  workdir: epath.PathLike,
  mesh: Mesh,
  traced_steps: range | None = None,
) -> TrainState:
  """Trains `task` to step `config.num_steps`, resuming the run in `workdir`.

  The keys are those of `sana_jax.config.train`, which documents them.
  `traced_steps` are profiled. After a SIGTERM it saves and returns the current
  state. Raises UserError.
  """
  rules.check(config)
  check_batch(mesh, config.batch_size, config.accumulate_steps)
  planned = plan_run(config, task, mesh)
  check_first(config, task, planned, workdir)
  log_overview(merge(planned.state.params, planned.state.extra, planned.base))

  with contextlib.ExitStack() as stack:
    use = stack.enter_context
    workdir, lock, base, origin = begin(
      use, config, task, workdir, mesh, planned
    )
    stop_requested = use(stop_requests(lock))
    batches = use(open_batches(config, task, mesh))
    checkpoints = use(Checkpoints(workdir / 'checkpoints', config, origin))
    cache = use(LocalCache(workdir, config, origin))
    state = restore(planned.state, batches, checkpoints, cache) or first_state(
      config, task, planned, mesh, base
    )
    check_start(start := int(state.step), config.num_steps, workdir)
    newest = checkpoints.newest
    watch = use(
      Monitor(workdir, config, task, planned, mesh, traced_steps, newest)
    )
    schedule = optimizers.schedule(config, task.objective)
    report = use(
      Report(workdir, config, schedule, start, watch, newest, lock.is_ours)
    )
    update = make_update(config, task, planned, mesh, base, watch)
    logging.info('%s: from step %d to %d.', task.name, start, config.num_steps)

    for step in range(start + 1, config.num_steps + 1):
      watch.profile(step, report.flush)
      batch = watch.next(batches, step - 1, collector(task, state, base))
      with watch.step(step):
        state, metrics = update(state, batch, step - 1)
        report(step, metrics)
      stop = stop_requested(step)
      full = due(step, config.checkpoint_every_steps, config.num_steps) or stop
      if full or cache.due(step):
        # Log lines up to a saved step are never rewritten.
        with watch.pause(timers.SAVE, report.sync if full else report.flush):
          save(step, state, batches, checkpoints, cache, full, stop, lock)
      if due(step, config.pictures_every_steps, config.num_steps):
        with watch.pause(timers.DRAW, report.flush):
          draw(task, state, base, step, workdir, report)
      if stop:
        break
      checkpoints.check()

    checkpoints.wait()
    if finish(task, state, base, workdir, config):
      cache.clear()
  return state


def plan_run(config: ml_collections.ConfigDict, task: Task, mesh: Mesh) -> Plan:
  """Shapes and shardings of a run; UserError for an invalid optimizer."""
  return plan(
    task.objective,
    optimizers.make(config, task.objective),
    mesh,
    average=config.ema_decay > 0,
    param_dtype=config.param_dtype,
    trainable=config.trainable,
  )


def make_update(
  config: ml_collections.ConfigDict,
  task: Task,
  planned: Plan,
  mesh: Mesh,
  base: Params,
  watch: Monitor,
) -> Update:
  """The jitted step of a run, with the random key of its seed."""
  return Update(
    planned,
    mesh,
    task.objective,
    Frozen(task.frozen, base),
    rng=jax.random.split(jax.random.key(config.seed))[1],
    batch_size=config.batch_size,
    phase=watch.phase,
    **options(config, optimizers.make(config, task.objective)),
  )


def collector(task: Task, state: TrainState, base: Params) -> Callable | None:
  """The task's `collect` with the current parameters, if it has one."""
  return task.collect and functools.partial(
    task.collect, merge(state.params, state.extra, base)
  )


def due(step: int, every: int, last: int) -> bool:
  """Whether something done every `every` steps and at the last is due."""
  return every > 0 and (step % every == 0 or step == last)


@contextlib.contextmanager
def stop_requests(lock: locks.Lock):
  """Yields a function of the step: whether to stop after it.

  A SIGTERM and a lost lock request it. Several processes agree on the step
  through JAX's coordination service, which handles the signal itself. Only the
  main thread may install handlers.
  """
  if jax.process_count() > 1:
    lock.on_loss = lambda: os.kill(os.getpid(), signal.SIGTERM)
    yield multihost_utils.reached_preemption_sync_point
  elif threading.current_thread() is not threading.main_thread():
    yield lambda step: lock.is_lost
  else:
    requested = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: requested.set())
    try:
      yield lambda step: requested.is_set() or lock.is_lost
    finally:
      signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


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
  """Saves a checkpoint if `full`, and to the host's cache if that is due.

  Before a `stop` both are written, and the previous checkpoint is not read
  back. Raises UserError if the workdir's `lock` was lost.
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
  """Draws a grid of samples, on all processes, and the loss curve."""
  image = task.pictures(merge(state.weights, state.extra, base), step)
  if jax.process_index() == 0:
    pictures.save_loss_curve(workdir, task.name)
    if image is not None:
      pictures.save_samples(workdir, step, image)
      report.picture(step, image)
