"""CLIP from transformers' and OpenAI's files.

A folder has the weights as transformers stores them (model.safetensors,
pytorch_model.bin, or shards), or as one other .safetensors, .pt or .pth file,
with the names of CLIPModel or of OpenAI's code. The sizes are those of
config.json; without one, the names must be OpenAI's, and sizes and activation
are those of OpenAI's models of this width.
"""

from collections.abc import Mapping
import math
import pathlib
import re
from typing import Any

import jax.numpy as jnp

from sana_jax import fields, files
from sana_jax.errors import UserError
from sana_jax.models import abstract
from sana_jax.models.clip import ACTIVATIONS, CLIP, Tower
from sana_jax.printable import counted, printable
from sana_jax.typing import Params
from sana_jax.weights import pth, safetensors_files, table, weight_files
from sana_jax.weights.clip_rules import (
  is_openai,
  model_tensors,
  OPENAI_RULES,
  RULES,
)
from sana_jax.weights.tensors import Stored

_CONFIG_BYTES = 2**20
_LONGEST = 2**14  # Tokens of a tower.
_OPENAI_HEAD, _OPENAI_WIDTH = 64, 1024  # Channels of a head, and at most.
_SUFFIXES = ('.safetensors', '.pt', '.pth')
_SIZE = fields.integer(1, 2**15)
_ACTIVATION = fields.choice(*ACTIVATIONS)
_TOWER = {
  'hidden_size': _SIZE,
  'intermediate_size': _SIZE,
  'num_hidden_layers': fields.integer(1, 200),
  'num_attention_heads': fields.integer(1, 1024),
  'hidden_act': _ACTIVATION,
  'layer_norm_eps': fields.number(1e-12, 1.0),
}
_VISION = _TOWER | {
  'image_size': fields.integer(1, 2048),
  'patch_size': fields.integer(1, 2048),
  'num_channels': fields.Field('3', lambda value: value == 3),
}
_TEXT = _TOWER | {
  'vocab_size': fields.integer(1, 2**21),
  'max_position_embeddings': fields.integer(2, _LONGEST),
  'eos_token_id': fields.integer(0, 2**21),
}
# The defaults of transformers' CLIPConfig, which are those of ViT-B/32.
_DEFAULTS = {
  'vision_config': {
    'hidden_size': 768,
    'intermediate_size': 3072,
    'num_hidden_layers': 12,
    'num_attention_heads': 12,
    'hidden_act': 'quick_gelu',
    'layer_norm_eps': 1e-5,
    'image_size': 224,
    'patch_size': 32,
  },
  'text_config': {
    'hidden_size': 512,
    'intermediate_size': 2048,
    'num_hidden_layers': 12,
    'num_attention_heads': 8,
    'hidden_act': 'quick_gelu',
    'layer_norm_eps': 1e-5,
    'vocab_size': 49_408,
    'max_position_embeddings': 77,
    'eos_token_id': 49_407,
  },
}
# Our fields of a tower.
_FIELDS = {
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'hidden': 'intermediate_size',
  'activation': 'hidden_act',
  'eps': 'layer_norm_eps',
}
# OpenAI's own configs have this one, which is no token's; the end of a text is
# then its highest id.
_LEGACY_EOS = 2


def load(folder: pathlib.Path) -> tuple[CLIP, Params]:
  """The model of a folder and its variables, in float32.

  Raises:
    UserError: a file is missing or damaged, or of another model.
  """
  tensors = model_tensors(_read(folder))
  path = where = folder / 'config.json'
  try:
    config = files.read_json(path, most=_CONFIG_BYTES)
  except FileNotFoundError:
    if not is_openai(tensors):
      raise UserError(
        f"{path} is missing; only weights with the names of OpenAI's code can "
        'be read without it.',
        value=folder,
        allowed='config.json',
      ) from None
    where = folder
    config = openai_config(tensors, str(where))
  module = CLIP(**fields_from_transformers(config, str(where)))
  rules = OPENAI_RULES if is_openai(tensors) else RULES
  try:
    return module, table.load(
      rules, tensors, abstract.clip(module), jnp.float32
    )
  except table.WeightError as e:
    raise table.WeightError(f'{folder}: {e}', value=e.value) from e


def _read(folder):
  """Tensors of the folder's weights."""
  try:
    names = sorted(x.name for x in folder.iterdir())
  except OSError as e:
    raise UserError(
      f'{printable(folder, 300)} is no folder that can be read '
      f'({e.strerror}); give one with a CLIP model.',
      value=folder,
      allowed='folders with a CLIP model',
    ) from None
  if weight_files.variant(names):
    return weight_files.read(folder, 'model')
  found = [x for x in names if x.endswith(_SUFFIXES)]
  if len(found) != 1:
    raise UserError(
      f'{printable(folder, 300)} must have model.safetensors or one file with '
      f'weights ({", ".join(_SUFFIXES)}), but has '
      f'{counted(len(found), "such file")}.',
      value=found,
      allowed='model.safetensors',
    )
  read = (
    safetensors_files.read_file
    if found[0].endswith('.safetensors')
    else pth.read
  )
  return read(folder / found[0])


def fields_from_transformers(
  config: Mapping[str, Any], where: str = 'config.json'
) -> dict[str, Any]:
  """Fields of `CLIP`, from a config.json of transformers 4 or 5.

  Raises:
    UserError: the config is not one of CLIP, or a value is out of its range.
  """
  if config.get('model_type') != 'clip':
    raise UserError(
      f'{where}: model_type is {fields.shown(config.get("model_type"))}; only '
      "'clip' is supported.",
      key='model_type',
      value=config.get('model_type'),
      allowed=('clip',),
    )
  fields.check(where, config, {'projection_dim': _SIZE})
  vision = _section(where, config, 'vision_config', _VISION)
  text = _section(where, config, 'text_config', _TEXT)
  eos = text['eos_token_id']
  grid = vision['image_size'] // vision['patch_size']
  if not 0 < grid**2 < _LONGEST:
    raise UserError(
      f'{where}: image_size is {vision["image_size"]} and patch_size '
      f'{vision["patch_size"]}; an image must have 1 to {_LONGEST - 1:,} '
      'patches.',
      key='patch_size',
      value=(vision['image_size'], vision['patch_size']),
      allowed=f'1 to {_LONGEST - 1} patches',
    )
  return {
    'image_size': vision['image_size'],
    'patch': vision['patch_size'],
    'vision': _tower(vision),
    'vocab_size': text['vocab_size'],
    'length': text['max_position_embeddings'],
    'text': _tower(text),
    'eos_id': None if eos == _LEGACY_EOS else eos,
    'projection': config.get('projection_dim', 512),
  }


def _section(where, config, name, allowed):
  """Values of a tower; as in transformers, those of NAME_dict win."""
  given = config.get(f'{name}_dict')
  given = config.get(name) if given is None else given
  if not isinstance(given, dict | None):
    raise UserError(
      f'{where}: {name} is {fields.shown(given)}, allowed is an object.',
      key=name,
      value=given,
      allowed=(dict,),
    )
  values = {**_DEFAULTS[name], **(given or {})}
  fields.check(f'{where}, {name}', values, allowed)
  width, heads = values['hidden_size'], values['num_attention_heads']
  if width % heads:
    raise UserError(
      f'{where}, {name}: hidden_size is {width}, which is not a multiple of '
      f'num_attention_heads, {heads}.',
      key='num_attention_heads',
      value=heads,
      allowed=f'divisors of {width}',
    )
  return values


def _tower(values):
  return Tower(**{field: values[key] for field, key in _FIELDS.items()})


def openai_config(
  tensors: Mapping[str, Stored], where: str = 'the weights'
) -> dict[str, Any]:
  """The config.json of weights with OpenAI's names, from their shapes.

  Raises:
    UserError: a tensor is missing, or the model is not one of OpenAI's.
  """
  try:
    patches = tensors['visual.conv1.weight'].shape
    grid = math.isqrt(tensors['visual.positional_embedding'].shape[0] - 1)
    vocab_size, text_width = tensors['token_embedding.weight'].shape
    length = tensors['positional_embedding'].shape[0]
    projection = tensors['text_projection'].shape[1]
    width, patch = patches[0], patches[3]
    towers = [
      _openai_tower(tensors, start, size)
      for start, size in (('visual.', width), ('', text_width))
    ]
  except (KeyError, ValueError, IndexError) as e:
    raise UserError(
      f'{where}: these are not the weights of a CLIP with a vision '
      f'transformer ({printable(e, 100)}).',
      key='tensors',
      value=where,
      allowed="OpenAI's ViT models",
    ) from None
  if any(x > _OPENAI_WIDTH or x % _OPENAI_HEAD for x in (width, text_width)):
    raise UserError(
      f'{where}: config.json is missing, and a model of {width:,} and '
      f"{text_width:,} channels is none of OpenAI's, which have heads of "
      f'{_OPENAI_HEAD} and at most {_OPENAI_WIDTH:,} channels: add the '
      'config.json of transformers.',
      key='config.json',
      value=(width, text_width),
      allowed=f'at most {_OPENAI_WIDTH}',
    )
  vision, text = towers
  return {
    'model_type': 'clip',
    'projection_dim': projection,
    'vision_config': {
      **vision,
      'image_size': grid * patch,
      'patch_size': patch,
    },
    'text_config': {
      **text,
      'vocab_size': vocab_size,
      'max_position_embeddings': length,
      'eos_token_id': _LEGACY_EOS,
    },
  }


def _openai_tower(tensors, start, width):
  block = f'{start}transformer.resblocks.'
  layers = {
    match[1]
    for name in tensors
    if (match := re.match(rf'{re.escape(block)}(\d+)\.', name))
  }
  return {
    'hidden_size': width,
    'intermediate_size': tensors[f'{block}0.mlp.c_fc.weight'].shape[0],
    'num_hidden_layers': len(layers),
    'num_attention_heads': width // _OPENAI_HEAD,
  }
