"""Initial parameters from a model folder.

    config.init_from -> transformer/, vae/ or text_encoder/ -> shards

Weights are loaded directly to the devices that hold their shards. The folder is
read at step 0, and at each start of a run with frozen parameters; other runs
resume from their checkpoint alone, and the folder may be deleted by then.
"""

from collections.abc import Callable, Sequence
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh

from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.training.task import Start
from sana_jax.typing import Params
from sana_jax.weights import folder as folders
from sana_jax.weights import hub

# Fields that change neither the parameters nor their meaning: a stage at
# another size has another position embedding, which is computed.
FREE = (
  'attention_eps',
  'control_after',
  'cross_norm_eps',
  'dtype',
  'interpolation_scale',
  'remat',
  'rounded_timesteps',
  'sample_size',
  'scaling_factor',
  'text_norm_scale',
  'unroll',
)


def start(
  part: str,
  module: nn.Module,
  *,
  kept: Sequence[str] = (),
  under: str = '',
  more: Callable[[pathlib.Path], list[str]] = lambda folder: [],
) -> Start:
  """A Start from a model folder's `part`.

  Args:
    module: the task's module, which the folder's must equal.
    kept: fields of FREE that must be equal nevertheless.
    under: the key of the folder's parameters; '' if they are all parameters.
    more: folder -> further differences.
  """

  def check(name: str) -> None:
    compare(name, part, module, kept, more)

  def load(name: str, mesh: Mesh) -> Params:
    params = folders.load(hub.find(name), part, jnp.float32, mesh).variables[
      'params'
    ]
    return {under: params} if under else params

  return Start(check, load)


def compare(
  name: str,
  part: str,
  module: nn.Module,
  kept: Sequence[str] = (),
  more: Callable[[pathlib.Path], list[str]] = lambda folder: [],
) -> None:
  """Raises UserError unless the folder's model equals `module`; see `start`."""
  folder = hub.find(name)
  folder_fields = _fields(folders.describe(folder, part))
  module_fields = _fields(module)
  free = set(FREE) - set(kept)
  differ = [
    f'{key} is {folder_fields[key]!r} there and {value!r} here'
    for key, value in module_fields.items()
    if key not in free and value != folder_fields[key]
  ]
  if differ := differ or more(folder):
    raise UserError(
      f'config.init_from={name!r}: {"; ".join(differ)}. Start from another '
      f'model, or change config.model to what is in its {part}/config.json.',
      key='init_from',
      value=differ,
    )


def _fields(module) -> dict[str, Any]:
  """Fields by name, with tuples as lists."""
  fields = folders.module_fields(module)
  del fields['dtype']
  return parse_json(json.dumps(fields))
