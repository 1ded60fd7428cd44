"""How a run begins: its checks, its lock, its base, and where it goes on."""

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
from sana_jax.training import agreement, bases, run_config, saved
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


def open_batches(config: ml_collections.ConfigDict, task: Task, mesh: Mesh):
  """The batches of this process from the first on; a context manager."""
  return contextlib.closing(
    task.data.batches(
      seed=config.seed,
      batch_size=config.batch_size,
      rows=batch_rows(mesh, config.batch_size).tolist(),
    )
  )


def check_start(start: int, num_steps: int, workdir: epath.Path) -> None:
  """Raises UserError where the last step is behind us."""
  if start > num_steps:
    raise UserError(
      f'{workdir} is at step {start} already and num_steps is {num_steps}; '
      'raise num_steps or choose another --workdir.'
    )


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


def first_state(
  config: ml_collections.ConfigDict, task: Task, planned: Plan, mesh: Mesh
) -> TrainState:
  """The state of a run that begins: drawn, or from config.init_from."""
  return planned.init(
    first_key(config.seed), bases.given(config.init_from, task.start, mesh)
  )
