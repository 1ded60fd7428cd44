"""What a run starts from: fresh parameters, or those of a model folder.

    config.init_from -> transformer/, vae/ or text_encoder/ -> shards

Weights go straight to the devices that hold them. Only step 0 reads them: a
run that goes on takes its parameters from its checkpoint, and the folder may be
gone by then.
"""

import json
from typing import Any

from absl import logging
from etils import epath
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.training import saved
from sana_jax.training.workdir import resolve
from sana_jax.typing import Params
from sana_jax.weights import folder as folders
from sana_jax.weights import hub

PARTS = {
  'sana': 'transformer', 'dc_ae': 'vae', 'text_encoder': 'text_encoder'}
# Fields that change neither parameters nor what they mean: a stage at another
# size has another position embedding, which is computed.
FREE = (
  'attention_eps', 'control_after', 'cross_norm_eps', 'dtype',
  'interpolation_scale', 'remat', 'rounded_timesteps', 'sample_size',
  'scaling_factor', 'text_norm_scale', 'unroll')


def check(config: ConfigDict, task: Any, workdir: epath.PathLike) -> None:
  """Raises UserError where the run would start from a model that differs.

  Of the task, its name and module are read.
  """
  if config.init_from and not saved.steps(resolve(workdir) / 'checkpoints'):
    compare(config.init_from, task)


def compare(name: str, task: Any) -> None:
  """Raises UserError unless the folder's model is the task's."""
  part, folder = PARTS[task.name], hub.find(name)
  theirs = _fields(folders.describe(folder, part))
  ours = _fields(task.module)
  free = set(FREE) - set(getattr(task, 'kept_fields', ()))
  differ = [
    f'{key} is {theirs[key]!r} there and {value!r} here'
    for key, value in ours.items() if key not in free and value != theirs[key]]
  if part == 'text_encoder' and not differ:
    differ = _vocabularies(folder, task)
  if differ:
    raise UserError(
      f"config.init_from={name!r}: {'; '.join(differ)}. Start from another "
      f'model, or change config.model to what is in its {part}/config.json.')


def given(name: str, task: Any, mesh: Mesh) -> Params:
  """The folder's parameters on the mesh, as a part of the task's own.

  None of them where the name is ''.
  """
  if not name:
    return {}
  part = PARTS[task.name]
  folder = hub.find(name)
  params = folders.load(folder, part, jnp.float32, mesh).variables['params']
  logging.info('Starting from %s.', folder / part)
  return {'encoder': params} if part == 'text_encoder' else params


def _fields(module) -> dict[str, Any]:
  """Fields by name; tuples and lists are alike."""
  fields = folders.module_fields(module)
  del fields['dtype']
  return parse_json(json.dumps(fields))


def _vocabularies(folder, task):
  from sana_jax.text import tokenizer as tokenizers
  theirs = tokenizers.load(folder / 'tokenizer').get_vocab()
  if theirs == task.tokenizer.get_vocab():
    return []
  return ['the tokenizer has other tokens there, as other captions made it']
