"""The frozen transformer of a ControlNet's training, from a model folder."""

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax.errors import UserError
from sana_jax.models.controlled import ControlledSana
from sana_jax.models.controlnet import first_params
from sana_jax.models.sana import Sana
from sana_jax.tasks import init_from
from sana_jax.training.task import Start
from sana_jax.typing import Params
from sana_jax.weights import folder as folders
from sana_jax.weights import hub, sana


def name_of(config: ConfigDict) -> str:
  """Name of the base's folder. Raises UserError if the config has none."""
  name = config.controlnet.base or config.init_from
  if not name:
    raise UserError(
      'config.init_from is empty; set it to the model folder of the '
      'transformer that the ControlNet is for.',
      key='init_from',
      value='',
      allowed='model folders',
    )
  return name


def check(config: ConfigDict, base: Sana) -> None:
  """Raises UserError for a base that no ControlNet can be made of."""
  sana.check_norms(folders.module_fields(base))
  if base.guidance_embeds:
    raise UserError(
      'config.model.guidance_embeds=True is a Sprint; train the ControlNet of '
      'the model that it was distilled from, and sample with it.',
      key='model.guidance_embeds',
      value=True,
      allowed=(False,),
    )
  depth, most = config.controlnet.depth, base.depth
  if depth > most:
    raise UserError(
      f'config.controlnet.depth={depth} must be at most config.model.depth='
      f'{most}, whose blocks it copies.',
      key='controlnet.depth',
      value=depth,
      allowed=f'1 to {most}',
    )


def load(config: ConfigDict, base: Sana, mesh: Mesh | None) -> Params:
  """Parameters of the base in config.dtype, sharded by the table of a Sana."""
  name = name_of(config)
  init_from.compare(name, 'transformer', base)
  model = folders.load(hub.find(name), 'transformer', config.dtype, mesh)
  return model.variables['params']


def start(config: ConfigDict, module: ControlledSana) -> Start:
  """Start from the first blocks of the transformer in config.init_from."""
  (net,) = module.nets

  def check_folder(name: str) -> None:
    init_from.compare(name, 'transformer', module.base)

  def load_first(name: str, mesh: Mesh) -> Params:
    found = folders.load(hub.find(name), 'transformer', jnp.float32, mesh)
    return first_params(found.variables['params'], net.depth)

  return Start(check_folder, load_first)
