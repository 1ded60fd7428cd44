"""End of a run: exports the model, if enough updates were finite."""

from absl import logging
from etils import epath
import jax
import ml_collections

from sana_jax.errors import UserError
from sana_jax.printable import counted
from sana_jax.sharding.mesh import local_mesh
from sana_jax.sharding.mesh import to_host as on_host
from sana_jax.training import pictures
from sana_jax.training.state import merge, TrainState
from sana_jax.training.task import Task
from sana_jax.training.workdir import barrier, new_folder
from sana_jax.typing import Params


class SkippedUpdates(UserError):
  """Too many updates of a finished run were skipped to export a model.

  Its exit code is that of an error in the config or the data: a restart ends in
  the same way.
  """


def finish(
  task: Task,
  state: TrainState,
  base: Params,
  workdir: epath.Path,
  config: ml_collections.ConfigDict,
) -> bool:
  """Exports the model after the last step; False if the run was stopped.

  Raises SkippedUpdates.
  """
  if int(state.step) < config.num_steps:
    logging.warning(
      'Stopped by SIGTERM; step %d is saved, and the same command resumes '
      'from there.',
      state.step,
    )
    return False
  check_skipped(task, state, config.max_skipped_fraction, workdir)
  export(task, merge(state.weights, state.extra, base), workdir)
  return True


def check_skipped(
  task: Task, state: TrainState, limit: float, workdir: epath.Path
) -> None:
  """Logs how many updates were skipped, over all runs of the workdir.

  Raises SkippedUpdates if they exceed the fraction `limit` of the updates of a
  player: weights after few updates do not count as a trained model.
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
    f'{skipped:,} of {counted(tried, "update")} ({skipped / tried:.1%}) '
    f'{"was" if skipped == 1 else "were"} not finite and skipped'
  )
  if skipped / tried <= limit:
    logging.warning('%s; max_skipped_fraction=%s allows that.', count, limit)
    return
  model = workdir / 'model'
  there = f' ({model} is of an earlier, shorter run)' if model.exists() else ''
  raise SkippedUpdates(
    f'{count}, more than max_skipped_fraction={limit} allows: the state is '
    f'saved, and no model is exported{there}. Check the data and lower '
    'optimizer.learning_rate; `sana-jax export` writes the weights as they '
    'are, and so does the same command with a higher max_skipped_fraction.',
    key='max_skipped_fraction',
    value=(skipped, tried),
    allowed=f'at most {limit}',
  )


def export(task: Task, params: Params, workdir: epath.Path) -> None:
  """Writes the loss curve and, atomically, workdir/model."""
  params = jax.tree.map(on_host, params)
  if jax.process_index() == 0:
    pictures.save_loss_curve(workdir, task.name)
    with jax.set_mesh(local_mesh()), new_folder(workdir / 'model') as part:
      task.export(params, part)
    logging.info('The model is in %s.', workdir / 'model')
  barrier('the model is exported')
