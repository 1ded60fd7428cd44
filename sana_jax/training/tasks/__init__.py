"""What can be trained: the transformer, the autoencoder, the text encoder."""

from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax.errors import UserError
from sana_jax.training.state import Task


def make(config: ConfigDict, workdir, mesh: Mesh | None = None) -> Task:
  """The task that `config.task` names, with its data opened.

  Frozen models are split over `mesh`, which is then that of the run.
  Raises UserError for what the task cannot work with.
  """
  match config.task:
    case 'sana':
      from sana_jax.training.tasks.sana import SanaTask
      return SanaTask(config, workdir, mesh)
    case 'dc_ae':
      from sana_jax.training.tasks.dc_ae import AutoencoderTask
      return AutoencoderTask(config)
    case 'text_encoder':
      from sana_jax.training.tasks.text_encoder import TextEncoderTask
      return TextEncoderTask(config)
  raise UserError(f'config.task={config.task!r} is unknown.')
