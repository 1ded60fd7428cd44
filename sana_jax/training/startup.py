"""Start of a run: checks, lock, base, and restoring or initializing."""

from collections.abc import Callable
import contextlib

from etils import epath
import grain
import jax
from jax.sharding import Mesh
import ml_collections

from sana_jax import locks
from sana_jax.backends import preferred
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import batch_rows
from sana_jax.training import (
  bases,
  boards,
  checkpoint_files,
  dataset_check,
  frozen_models,
  run_config,
)
from sana_jax.training.checkpoints import Checkpoints
from sana_jax.training.local_cache import LocalCache
from sana_jax.training.reporting import silence
from sana_jax.training.state import first_key, Plan, TrainState
from sana_jax.training.task import Task
from sana_jax.training.workdir import resolve
from sana_jax.typing import Params


def check_first(
  config: ml_collections.ConfigDict,
  task: Task,
  planned: Plan,
  workdir: epath.PathLike,
) -> None:
  """Raises UserError if config.init_from is used and is another model.

  It is used at step 0, and for the base of a run at every start. A dashboard
  whose package is missing is an error, too.
  """
  boards.check(config)
  begun = checkpoint_files.steps(resolve(workdir) / 'checkpoints')
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
  """Enters the contexts that last for a whole run.

  Returns its workdir, lock, base and the base's origin. Raises UserError if
  another run holds the workdir, or the workdir has another config, base,
  frozen model or dataset.
  """
  lock = use(hold(workdir))
  use(preferred(config.kernels.to_dict(), 'config.kernels'))
  use(jax.set_mesh(mesh))
  use(silence('orbax'))
  base, origin = make_base(config, task, workdir, mesh, planned)
  workdir = run_config.claim(workdir, config)
  dataset_check.check(workdir, task)
  frozen_models.check(workdir, task.models, task.frozen)
  return workdir, lock, base, origin


def make_base(
  config: ml_collections.ConfigDict,
  task: Task,
  workdir: epath.PathLike,
  mesh: Mesh,
  planned: Plan,
) -> tuple[Params, dict | None]:
  """The base and its origin.

  Raises UserError if a run in `workdir` started from another one.
  """
  if not planned.base:
    return {}, None
  run_config.compare(workdir, config)  # Before it is loaded.
  base, origin = bases.make(planned, config, task.start, mesh)
  about, _ = run_config.newest_about(workdir)
  if about is not None:
    bases.compare(checkpoint_files.base_of(about), origin)
  return base, origin


def hold(workdir: epath.PathLike):
  """Context manager: the lock of a workdir, held by process 0 for all."""
  return locks.hold(
    locks.within(resolve(workdir)), 'training', '--workdir', shared=True
  )


def open_batches(config: ml_collections.ConfigDict, task: Task, mesh: Mesh):
  """Context manager: the batches of this process, from the first one."""
  return contextlib.closing(
    task.data.batches(
      seed=config.seed,
      batch_size=config.batch_size,
      rows=batch_rows(mesh, config.batch_size).tolist(),
    )
  )


def check_start(start: int, num_steps: int, workdir: epath.Path) -> None:
  """Raises UserError if the run is already past its last step."""
  if start > num_steps:
    raise UserError(
      f'{workdir} is at step {start} already and num_steps is {num_steps}; '
      'raise num_steps or choose another --workdir.',
      key='num_steps',
      value=num_steps,
      allowed=f'{start} or more',
    )


def restore(
  shapes: TrainState,
  batches: grain.DatasetIterator,
  checkpoints: Checkpoints,
  cache: LocalCache,
) -> TrainState | None:
  """The newest saved state, or None; sets `batches` to its position."""
  return cache.restore(
    shapes, batches, checkpoints.latest_step()
  ) or checkpoints.restore(shapes, batches)


def first_state(
  config: ml_collections.ConfigDict,
  task: Task,
  planned: Plan,
  mesh: Mesh,
  base: Params | None = None,
) -> TrainState:
  """The first state of a run: initialized, or from config.init_from.

  A model that is all in the `base`, under adapters, is not loaded again.
  """
  if not (base and set(base).isdisjoint(planned.state.params)):
    base = bases.given(config.init_from, task.start, mesh)
  return planned.init(first_key(config.seed), base)
