"""Qwen2's tensors and config.json, from transformers' Qwen2ForCausalLM."""

from collections.abc import Mapping
from typing import Any

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.weights import tied
from sana_jax.weights.table import Rule
from sana_jax.weights.tensors import Stored
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
  'post_attention_layernorm': 'mlp_norm',
}
RULES = (
  Rule('model.embed_tokens.weight', 'table/embedding'),
  *(
    Rule(f'model.layers.{{i}}.{key}.weight', f'layers/{path}/kernel', LINEAR)
    for key, path in _LINEAR.items()
  ),
  *(
    Rule(f'model.layers.{{i}}.self_attn.{x}_proj.bias', f'layers/{path}/bias')
    for x, path in (('q', 'query'), ('k', 'key'), ('v', 'value'))
  ),
  *(
    Rule(f'model.layers.{{i}}.{key}.weight', f'layers/{path}/scale')
    for key, path in _NORM.items()
  ),
  Rule('model.norm.weight', 'final_norm/scale'),
  Rule('lm_head.weight', 'head', LINEAR),
)

# Our fields, and transformers' keys with their defaults.
_FIELDS = {
  'vocab_size': ('vocab_size', 151_936),
  'width': ('hidden_size', 4096),
  'depth': ('num_hidden_layers', 32),
  'heads': ('num_attention_heads', 32),
  'kv_heads': ('num_key_value_heads', 32),
  'hidden': ('intermediate_size', 22_016),
  'eps': ('rms_norm_eps', 1e-6),
  'tied': ('tie_word_embeddings', False),
}
_POSITIVE, _WIDTH = fields.number(1e-12, 1e9), fields.integer(1, 2**18)
_HEADS = fields.integer(1, 1024)
_ALLOWED = {
  'vocab_size': fields.integer(1, 2**21),
  'hidden_size': _WIDTH,
  'num_hidden_layers': fields.integer(1, 1000),
  'num_attention_heads': _HEADS,
  'num_key_value_heads': _HEADS,
  'intermediate_size': _WIDTH,
  'rms_norm_eps': _POSITIVE,
  'tie_word_embeddings': fields.FLAG,
  'rope_theta': _POSITIVE,
  'model_type': fields.choice('qwen2'),
  'hidden_act': fields.choice('silu'),
  'use_sliding_window': fields.Field('false', lambda value: value is False),
}
_ROPE_THETA = 10_000.0


def fields_from_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of `Qwen2`, from a config.json of transformers 4 or 5.

  Raises:
    UserError: the config is not one of Qwen2, or a value is out of its range.
  """
  where = 'llm/config.json'
  fields.check(where, config, _ALLOWED)
  model = {
    field: config.get(key, default) for field, (key, default) in _FIELDS.items()
  }
  width, heads, kv_heads = (model[k] for k in ('width', 'heads', 'kv_heads'))
  if heads % kv_heads or width % heads or width // heads % 2:
    raise UserError(
      f'{where}: hidden_size is {width}, num_attention_heads {heads} and '
      f'num_key_value_heads {kv_heads}; each must be a multiple of the next, '
      'the first an even one.',
      key='num_attention_heads',
      value=(width, heads, kv_heads),
      allowed='multiples of num_key_value_heads',
    )
  return {**model, 'rope_theta': _rope_theta(where, config)}


def _rope_theta(where, config):
  rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
  kind = (
    rope.get('rope_type', rope.get('type', 'default'))
    if isinstance(rope, dict)
    else rope
  )
  if kind != 'default':
    raise UserError(
      f'{where}: rope_type is {fields.shown(kind)}; only '
      "'default' is supported.",
      key='rope_type',
      value=kind,
      allowed=('default',),
    )
  fields.check(f'{where}, rope_parameters', rope, _ALLOWED)
  return rope.get('rope_theta', config.get('rope_theta', _ROPE_THETA))


def model_tensors(
  tensors: Mapping[str, Stored], is_tied: bool
) -> dict[str, Stored]:
  """Tensors with the keys of `RULES`; tied files may repeat the embeddings."""
  if not is_tied:
    return dict(tensors)
  return tied.without_head(tensors, 'model.embed_tokens.weight')
