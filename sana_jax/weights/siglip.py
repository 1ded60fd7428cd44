"""SigLIP's vision tower, from transformers' SiglipVisionModel.

Keys are those of transformers 5; earlier files have the prefix `vision_model.`.
Of a file, the layers after the features that NVILA uses, the final norm and the
pooling head are checked by name and not read.
"""

from collections.abc import Mapping
import re
from typing import Any

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.weights.table import Rule
from sana_jax.weights.tensors import Stored
from sana_jax.weights.transforms import CONV, LINEAR

_LINEAR = {
  'self_attn.q_proj': 'query',
  'self_attn.k_proj': 'key',
  'self_attn.v_proj': 'value',
  'self_attn.out_proj': 'out',
  'mlp.fc1': 'fc1',
  'mlp.fc2': 'fc2',
}
_NORM = {'layer_norm1': 'attention_norm', 'layer_norm2': 'mlp_norm'}


def _rules():
  embeddings, layer = 'embeddings', 'encoder.layers'
  patch, position = 'patch_embedding', 'position_embedding.weight'
  yield Rule(f'{embeddings}.{patch}.weight', 'patch_embed/kernel', CONV)
  yield Rule(f'{embeddings}.{patch}.bias', 'patch_embed/bias')
  yield Rule(f'{embeddings}.{position}', 'position')
  for key, path in _LINEAR.items():
    key, path = f'{layer}.{{i}}.{key}', f'layers/{path}'
    yield Rule(f'{key}.weight', f'{path}/kernel', LINEAR)
    yield Rule(f'{key}.bias', f'{path}/bias')
  for key, path in _NORM.items():
    key, path = f'{layer}.{{i}}.{key}', f'layers/{path}'
    yield Rule(f'{key}.weight', f'{path}/scale')
    yield Rule(f'{key}.bias', f'{path}/bias')


RULES = tuple(_rules())
_PREFIX = 'vision_model.'
_LAYER = re.compile(
  rf'encoder\.layers\.(\d+)\.'
  rf'({"|".join(map(re.escape, (*_LINEAR, *_NORM)))})\.(weight|bias)'
)
_UNUSED = re.compile(
  r'(post_layernorm\.(weight|bias)|embeddings\.position_ids|'
  r'head\.(probe|attention\.in_proj_(weight|bias)|'
  r'(attention\.out_proj|layernorm|mlp\.fc[12])\.(weight|bias)))'
)

# Our fields, and transformers' keys with their defaults.
_FIELDS = {
  'image_size': ('image_size', 224),
  'patch': ('patch_size', 16),
  'width': ('hidden_size', 768),
  'depth': ('num_hidden_layers', 12),
  'heads': ('num_attention_heads', 12),
  'hidden': ('intermediate_size', 3072),
  'eps': ('layer_norm_eps', 1e-6),
}
_WIDTH = fields.integer(1, 2**18)
_ALLOWED = {
  'image_size': fields.integer(1, 4096),
  'patch_size': fields.integer(1, 256),
  'hidden_size': _WIDTH,
  'num_hidden_layers': fields.integer(1, 1000),
  'num_attention_heads': fields.integer(1, 1024),
  'intermediate_size': _WIDTH,
  'layer_norm_eps': fields.number(1e-12, 1),
  'model_type': fields.choice('siglip_vision_model'),
  'hidden_act': fields.choice('gelu_pytorch_tanh'),
  'num_channels': fields.Field('3', lambda value: value == 3),
}


def fields_from_transformers(
  config: Mapping[str, Any], select: int = -1
) -> dict[str, Any]:
  """Fields of `SigLIP`, from a config.json of transformers.

  Args:
    select: index of the hidden states that are used, negative from the end.

  Raises:
    UserError: the config is not one of SigLIP, or a value is out of its range.
  """
  where = 'vision_tower/config.json'
  fields.check(where, config, _ALLOWED)
  model = {
    field: config.get(key, default) for field, (key, default) in _FIELDS.items()
  }
  wrong = (
    ('image_size', model['image_size'] < model['patch'], 'patch_size or more'),
    (
      'num_attention_heads',
      model['width'] % model['heads'],
      'divisors of hidden_size',
    ),
    ('num_hidden_layers', model['depth'] + select < 0, f'{-select} or more'),
  )
  for key, is_wrong, allowed in wrong:
    if is_wrong:
      field = next(f for f, (name, _) in _FIELDS.items() if name == key)
      raise UserError(
        f'{where}: {key} is {model[field]}; allowed are {allowed}.',
        key=key,
        value=model[field],
        allowed=allowed,
      )
  return {**model, 'depth': model['depth'] + 1 + select}


def model_tensors(
  tensors: Mapping[str, Stored], depth: int
) -> dict[str, Stored]:
  """Tensors with the keys of `RULES`, without those after `depth` layers."""

  def is_used(key):
    layer = _LAYER.fullmatch(key)
    if layer:
      return int(layer[1]) < depth
    return not _UNUSED.fullmatch(key)

  plain = {key.removeprefix(_PREFIX): x for key, x in tensors.items()}
  return {key: x for key, x in plain.items() if is_used(key)}
