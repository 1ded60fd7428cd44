"""Parts of a pipeline from a folder, and ControlNets that are added to it."""

import functools
import os
from typing import Any

import flax.linen as nn
from jax.sharding import Mesh

from sana_jax.errors import UserError
from sana_jax.fields import shown
from sana_jax.inference import few_steps, model_index
from sana_jax.inference.schedulers import read_scheduler
from sana_jax.models.controlnet import AFTER
from sana_jax.printable import printable
from sana_jax.text import tokenizer as tokenizers
from sana_jax.typing import DType
from sana_jax.weights import exchange, hub, kinds, table
from sana_jax.weights import folder as folders
from sana_jax.weights.folder import Model


def parts(
  name: str | os.PathLike, dtype: DType, mesh: Mesh | None, encoder: bool
) -> dict[str, Any]:
  """Fields of the `Pipeline` of a folder, a hub id or a shipped model.

  With a ControlNet, the autoencoder's encoder is loaded, too.
  """
  folder = hub.find_pipeline(name)
  recommended = model_index.read(folder)
  vocabulary = model_index.vocabulary(folder)
  sampler, flow_shift = read_scheduler(folder)
  tokenizer = tokenizers.load(folder / 'tokenizer')
  model_index.check_parts(folder, tokenizer)
  load = functools.partial(folders.load, folder, dtype=dtype, mesh=mesh)
  transformer, nets = load('transformer'), ()
  if few_steps.is_sprint(transformer.module):
    transformer, (sampler, flow_shift) = few_steps.sprint(
      transformer, (sampler, flow_shift)
    )
  if model_index.has_controlnet(folder):
    nets = (controlnet(folder, transformer.module, dtype, mesh),)
  return {
    'transformer': transformer,
    'autoencoder': load('vae', only='' if encoder or nets else 'decoder'),
    'text_encoder': load('text_encoder'),
    'tokenizer': tokenizer,
    'sampler': sampler,
    'flow_shift': flow_shift,
    'recommended': recommended,
    'vocabulary': vocabulary,
    'mesh': mesh,
    'controlnets': nets,
  }


def controlnet(
  name: str | os.PathLike,
  base: nn.Module,
  dtype: DType,
  mesh: Mesh | None = None,
  wiring: str | None = None,
) -> Model:
  """A ControlNet for a transformer.

  Args:
    name: a model folder with controlnet/, that folder itself, a hub id, a name
      of the zoo, a shipped net or an official file.
    wiring: a key of AFTER; by default the one in its config.json.

  Raises:
    UserError: there is none, or it is for a transformer of another size.
  """
  if wiring not in (None, *AFTER):
    raise UserError(
      f'The wiring is {shown(wiring)}; allowed are {", ".join(AFTER)}.',
      key='wiring',
      value=wiring,
      allowed=tuple(AFTER),
    )
  model = (
    _of_file(name, dtype)
    if hub.local(name).is_file()
    else folders.load(hub.find(name), 'controlnet', dtype, mesh)
  )
  _check(model.module, base, name)
  if wiring is None:
    return model
  return model._replace(module=model.module.clone(wiring=wiring))


def _of_file(name, dtype):
  """The ControlNet of an official file, which has its transformer, too."""
  found = exchange.open_source(str(name)).parts.get('controlnet')
  if found is None:
    raise UserError(
      f'{name} has no ControlNet; give the file of one.',
      key='controlnet',
      value=str(name),
    )
  kind = kinds.CONTROLNET
  module = kind.module(found.config, dtype)
  return Model(
    module,
    table.load(kind.rules(module), found.tensors, kind.shapes(module), dtype),
  )


def _check(net, base, name):
  """Raises UserError unless the net's outputs fit the transformer's tokens."""
  for key in ('width', 'in_channels', 'caption_channels', 'patch_size'):
    got, wanted = getattr(net, key), getattr(base, key)
    if got != wanted:
      raise UserError(
        f'The ControlNet {printable(name, 200)} has {key} {got:,}, and the '
        f'transformer {wanted:,}; choose the ControlNet of this model.',
        key=key,
        value=got,
        allowed=(wanted,),
      )
