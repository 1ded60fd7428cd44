"""Gemma-2's tensors and config.json, from transformers and back.

Files of Gemma2Model name tensors as in `RULES`; those of Gemma2ForCausalLM put
`model.` in front and may repeat the embeddings as `lm_head.weight`.
"""

from collections.abc import Mapping

import numpy as np

from sana_jax.errors import UserError
from sana_jax.weights.table import Rule
from sana_jax.weights.tensors import as_stored, Stored
from sana_jax.weights.transforms import LINEAR

_LINEAR = {
  'self_attn.q_proj': 'query', 'self_attn.k_proj': 'key',
  'self_attn.v_proj': 'value', 'self_attn.o_proj': 'out',
  'mlp.gate_proj': 'gate', 'mlp.up_proj': 'up', 'mlp.down_proj': 'down'}
_NORM = {
  'input_layernorm': 'attention_norm',
  'post_attention_layernorm': 'post_attention_norm',
  'pre_feedforward_layernorm': 'mlp_norm',
  'post_feedforward_layernorm': 'post_mlp_norm'}

RULES = (
  Rule('embed_tokens.weight', 'embed/embedding'),
  *(Rule(f'layers.{{i}}.{theirs}.weight', f'layers/{ours}/kernel', LINEAR)
    for theirs, ours in _LINEAR.items()),
  *(Rule(f'layers.{{i}}.{theirs}.weight', f'layers/{ours}/scale')
    for theirs, ours in _NORM.items()),
  Rule('norm.weight', 'final_norm/scale'),
)

# Our fields and transformers' keys, with the values that it assumes where a
# config.json leaves one out.
_FIELDS = {
  'vocab_size': ('vocab_size', 256_000),
  'width': ('hidden_size', 2304),
  'depth': ('num_hidden_layers', 26),
  'heads': ('num_attention_heads', 8),
  'kv_heads': ('num_key_value_heads', 4),
  'head_dim': ('head_dim', 256),
  'hidden': ('intermediate_size', 9216),
  'query_scale': ('query_pre_attn_scalar', 256),
  'attention_softcap': ('attn_logit_softcapping', 50.),
  'final_softcap': ('final_logit_softcapping', 30.),
  'sliding_window': ('sliding_window', 4096),
  'eps': ('rms_norm_eps', 1e-6),
}
# What a config.json may say about things that Gemma-2 has only one way of.
_FIXED = {
  'model_type': 'gemma2', 'hidden_activation': 'gelu_pytorch_tanh',
  'attention_bias': False, 'tie_word_embeddings': True}
_ROPE_THETA = 10_000.
_ROWS = 8192
_SUFFIX = '_attention'  # of transformers' layer types


def model_tensors(
  tensors: Mapping[str, np.ndarray | Stored]
) -> dict[str, Stored]:
  """Tensors by the keys of `RULES`, from either kind of file.

  Raises:
    UserError: `lm_head.weight` differs from the embeddings.
  """
  out = {key.removeprefix('model.'): tensor
         for key, tensor in as_stored(tensors).items()}
  head = out.pop('lm_head.weight', None)
  embeddings = out.get('embed_tokens.weight')
  if head is not None and not (
      embeddings is not None and _equal(head, embeddings)):
    raise UserError(
      'lm_head.weight differs from embed_tokens.weight; only Gemma-2 with tied '
      'embeddings is supported: remove lm_head.weight or use other weights.')
  return out


def _equal(a: Stored, b: Stored) -> bool:
  """Whether two tensors are the same, some rows at a time: they are large."""
  return a.shape == b.shape and all(
    np.array_equal(a.fetch(i, i + _ROWS), b.fetch(i, i + _ROWS))
    for i in range(0, a.shape[0], _ROWS))


def fields_from_transformers(config: Mapping) -> dict:
  """Fields of `Gemma2`, from a config.json of transformers 4 or 5.

  Raises:
    UserError: the config asks for what Gemma-2 is not.
  """
  for key, value in _FIXED.items():
    if config.get(key, value) != value:
      raise UserError(f'Gemma-2 config: {key} is {config[key]!r}; only '
                      f'{value!r} is supported.')
  if config.get('use_bidirectional_attention'):
    raise UserError('Gemma-2 config: use_bidirectional_attention is set; only '
                    'causal attention is supported.')
  fields = {ours: config.get(key, default)
            for ours, (key, default) in _FIELDS.items()}
  for ours, value in fields.items():
    if not isinstance(value, int | float) or value <= 0:
      raise UserError(f'Gemma-2 config: {_FIELDS[ours][0]} is {value!r}; it '
                      'must be a positive number.')
  return {**fields, 'rope_theta': _rope_theta(config),
          'layer_types': _layer_types(config, fields['depth'])}


def transformers_config(fields: Mapping, dtype: str = 'float32') -> dict:
  """The config.json with which transformers' Gemma2Model loads our weights.

  Args:
    fields: of `Gemma2`; those left out have their defaults.
    dtype: of the saved tensors.

  Raises:
    UserError: transformers would refuse the sizes.
  """
  config = {key: fields.get(ours, default)
            for ours, (key, default) in _FIELDS.items()}
  width, heads = config['hidden_size'], config['num_attention_heads']
  if width % heads:
    raise UserError(f'Gemma-2 width {width} is not a multiple of its {heads} '
                    'heads, which transformers demands: change width or heads.')
  types = fields.get('layer_types') or ('sliding', 'full') * fields['depth']
  theta = fields.get('rope_theta', _ROPE_THETA)
  return {
    'architectures': ['Gemma2Model'], **_FIXED, **config,
    'layer_types': [t + _SUFFIX for t in types[:fields['depth']]],
    'rope_parameters': {'rope_theta': theta, 'rope_type': 'default'},
    'rope_theta': theta,  # Where transformers 4 looks for it.
    'max_position_embeddings': 8192, 'attention_dropout': 0.,
    'initializer_range': 0.02, 'use_cache': True,
    'pad_token_id': 0, 'eos_token_id': 1, 'bos_token_id': 2,
    'dtype': dtype, 'torch_dtype': dtype}


def _rope_theta(config):
  rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind != 'default':
    raise UserError(f'Gemma-2 config: rope_type is {kind!r}; only '
                    "'default' is supported.")
  return rope.get('rope_theta', config.get('rope_theta', _ROPE_THETA))


def _layer_types(config, depth):
  """() where the config does not say: the alternation that is our default."""
  types = tuple(config.get('layer_types') or ())
  names = ('sliding' + _SUFFIX, 'full' + _SUFFIX)
  if types and (len(types) != depth or not set(types) <= set(names)):
    raise UserError(f'Gemma-2 config: layer_types is {list(types)}; it must '
                    f'name {depth} layers, each one of {names}.')
  return tuple(t.removesuffix(_SUFFIX) for t in types)
