"""Gemma-2's tensors and config.json, from and to transformers.

Files of Gemma2Model have the names of `RULES`; those of Gemma2ForCausalLM have
the prefix `model.` and may repeat the embeddings as `lm_head.weight`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.printable import counted
from sana_jax.weights import tied
from sana_jax.weights.table import Rule
from sana_jax.weights.tensors import as_stored, Stored
from sana_jax.weights.transforms import LINEAR

_LINEAR = {
  'self_attn.q_proj': 'query',
  'self_attn.k_proj': 'key',
  'self_attn.v_proj': 'value',
  'self_attn.o_proj': 'out',
  'mlp.gate_proj': 'gate',
  'mlp.up_proj': 'up',
  'mlp.down_proj': 'down',
}
_NORM = {
  'input_layernorm': 'attention_norm',
  'post_attention_layernorm': 'post_attention_norm',
  'pre_feedforward_layernorm': 'mlp_norm',
  'post_feedforward_layernorm': 'post_mlp_norm',
}

RULES = (
  Rule('embed_tokens.weight', 'embed/embedding'),
  *(
    Rule(f'layers.{{i}}.{key}.weight', f'layers/{path}/kernel', LINEAR)
    for key, path in _LINEAR.items()
  ),
  *(
    Rule(f'layers.{{i}}.{key}.weight', f'layers/{path}/scale')
    for key, path in _NORM.items()
  ),
  Rule('norm.weight', 'final_norm/scale'),
)

# Our fields, and transformers' keys with their defaults.
_FIELDS = {
  'vocab_size': ('vocab_size', 256_000),
  'width': ('hidden_size', 2304),
  'depth': ('num_hidden_layers', 26),
  'heads': ('num_attention_heads', 8),
  'kv_heads': ('num_key_value_heads', 4),
  'head_dim': ('head_dim', 256),
  'hidden': ('intermediate_size', 9216),
  'query_scale': ('query_pre_attn_scalar', 256),
  'attention_softcap': ('attn_logit_softcapping', 50.0),
  'final_softcap': ('final_logit_softcapping', 30.0),
  'sliding_window': ('sliding_window', 4096),
  'eps': ('rms_norm_eps', 1e-6),
}
_POSITIVE, _WIDTH = fields.number(1e-12, 1e9), fields.integer(1, 2**18)
_SUFFIX = '_attention'  # Suffix of transformers' layer types.
_LAYERS, _HEADS = 1000, fields.integer(1, 1024)
_ALLOWED = {
  'vocab_size': fields.integer(1, 2**21),
  'hidden_size': _WIDTH,
  'num_hidden_layers': fields.integer(1, _LAYERS),
  'num_attention_heads': _HEADS,
  'num_key_value_heads': _HEADS,
  'head_dim': fields.integer(2, 2**12),
  'intermediate_size': _WIDTH,
  'query_pre_attn_scalar': _POSITIVE,
  'attn_logit_softcapping': _POSITIVE,
  'final_logit_softcapping': _POSITIVE,
  'sliding_window': fields.integer(1, 2**30),
  'rms_norm_eps': _POSITIVE,
  'rope_theta': _POSITIVE,
  'layer_types': fields.either(
    fields.NULL,
    fields.list_of(
      fields.choice(f'sliding{_SUFFIX}', f'full{_SUFFIX}'), 0, _LAYERS
    ),
  ),
}
# Keys of a config.json for which Gemma-2 has only one value.
_FIXED = {
  'model_type': 'gemma2',
  'hidden_activation': 'gelu_pytorch_tanh',
  'attention_bias': False,
  'tie_word_embeddings': True,
}
_ROPE_THETA = 10_000.0
_WHERE = 'text_encoder/config.json'


def model_tensors(
  tensors: Mapping[str, np.ndarray | Stored],
) -> dict[str, Stored]:
  """Tensors with the keys of `RULES`, from either kind of file.

  Raises:
    UserError: `lm_head.weight` differs from the embeddings.
  """
  return tied.without_head(
    {
      key.removeprefix('model.'): tensor
      for key, tensor in as_stored(tensors).items()
    },
    'embed_tokens.weight',
  )


def fields_from_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of `Gemma2`, from a config.json of transformers 4 or 5.

  Raises:
    UserError: the config is not one of Gemma-2, or a value is out of its range.
  """
  for key, value in _FIXED.items():
    if config.get(key, value) != value:
      raise UserError(
        f'{_WHERE}: {key} is {fields.shown(config[key])}; only '
        f'{value!r} is supported.',
        key=key,
        value=config[key],
        allowed=(value,),
      )
  if config.get('use_bidirectional_attention'):
    raise UserError(
      f'{_WHERE}: use_bidirectional_attention is set; only '
      'causal attention is supported.',
      key='use_bidirectional_attention',
      value=config['use_bidirectional_attention'],
      allowed=(False,),
    )
  fields.check(_WHERE, config, _ALLOWED)
  model = {
    field: config.get(key, default) for field, (key, default) in _FIELDS.items()
  }
  if model['heads'] % model['kv_heads'] or model['head_dim'] % 2:
    raise UserError(
      f'{_WHERE}: num_attention_heads is {model["heads"]}, '
      f'num_key_value_heads {model["kv_heads"]} and head_dim '
      f'{model["head_dim"]}; the first must be a multiple of the second, and '
      'the third even.',
      key='num_attention_heads',
      value=(model['heads'], model['kv_heads'], model['head_dim']),
      allowed='multiples of num_key_value_heads',
    )
  return {
    **model,
    'rope_theta': _rope_theta(config),
    'layer_types': _layer_types(config, model['depth']),
  }


def transformers_config(model: Mapping, dtype: str = 'float32') -> dict:
  """The config.json for which transformers' Gemma2Model loads our weights.

  Args:
    model: fields of `Gemma2`; omitted ones have their defaults.
    dtype: dtype of the saved tensors.

  Raises:
    UserError: transformers does not support the sizes.
  """
  config = {
    key: model.get(field, default) for field, (key, default) in _FIELDS.items()
  }
  width, heads = config['hidden_size'], config['num_attention_heads']
  if width % heads:
    raise UserError(
      f'Gemma-2 width {width} is not a multiple of its {heads} '
      'heads, which transformers requires: change width or heads.',
      key='width',
      value=width,
      allowed=f'multiples of {heads}',
    )
  types = model.get('layer_types') or ('sliding', 'full') * model['depth']
  theta = model.get('rope_theta', _ROPE_THETA)
  return {
    'architectures': ['Gemma2Model'],
    **_FIXED,
    **config,
    'layer_types': [t + _SUFFIX for t in types[: model['depth']]],
    'rope_parameters': {'rope_theta': theta, 'rope_type': 'default'},
    'rope_theta': theta,  # The key of transformers 4.
    'max_position_embeddings': 8192,
    'attention_dropout': 0.0,
    'initializer_range': 0.02,
    'use_cache': True,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'bos_token_id': 2,
    'dtype': dtype,
    'torch_dtype': dtype,
  }


def _rope_theta(config):
  rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
  if not isinstance(rope, dict):
    raise UserError(
      f'{_WHERE}: rope_parameters is {fields.shown(rope)}, '
      'allowed is an object.',
      key='rope_parameters',
      value=rope,
      allowed=(dict,),
    )
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind != 'default':
    raise UserError(
      f'{_WHERE}: rope_type is {fields.shown(kind)}; only '
      "'default' is supported.",
      key='rope_type',
      value=kind,
      allowed=('default',),
    )
  fields.check(f'{_WHERE}, rope_parameters', rope, _ALLOWED)
  return rope.get('rope_theta', config.get('rope_theta', _ROPE_THETA))


def _layer_types(config, depth):
  """Layer types of the config; () for none, which is our default."""
  types = tuple(config.get('layer_types') or ())
  if types and len(types) != depth:
    raise UserError(
      f'{_WHERE}: layer_types has {counted(len(types), "entry", "entries")}; '
      f'it must name {depth} layers.',
      key='layer_types',
      value=len(types),
      allowed=(depth,),
    )
  return tuple(t.removesuffix(_SUFFIX) for t in types)
