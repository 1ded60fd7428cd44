"""Weights and config of the Sana transformer in the diffusers layout."""

from collections.abc import Mapping
from typing import Any

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.weights.table import Rule
from sana_jax.weights.transforms import (
  CONV,
  DEPTHWISE,
  LINEAR,
  POINTWISE,
  Transform,
)

# diffusers' config key -> our field, for values that are copied unchanged;
# first those that a ControlNet has too.
SHARED = {
  'in_channels': 'in_channels',
  'attention_head_dim': 'head_dim',
  'num_layers': 'depth',
  'num_cross_attention_heads': 'cross_heads',
  'caption_channels': 'caption_channels',
  'mlp_ratio': 'mlp_ratio',
  'attention_bias': 'attention_bias',
  'sample_size': 'sample_size',
  'patch_size': 'patch_size',
  'norm_elementwise_affine': 'norm_affine',
  'norm_eps': 'norm_eps',
  'interpolation_scale': 'interpolation_scale',
}
_COPIED = {
  **SHARED,
  'guidance_embeds': 'guidance_embeds',
  'guidance_embeds_scale': 'guidance_embeds_scale',
  'timestep_scale': 'timestep_scale',
}
SHARED_DEFAULTS = {
  'in_channels': 32,
  'out_channels': 32,
  'num_attention_heads': 70,
  'attention_head_dim': 32,
  'num_layers': 20,
  'num_cross_attention_heads': 20,
  'cross_attention_head_dim': 112,
  'cross_attention_dim': 2240,
  'caption_channels': 2304,
  'mlp_ratio': 2.5,
  'dropout': 0.0,
  'attention_bias': False,
  'sample_size': 32,
  'patch_size': 1,
  'norm_elementwise_affine': False,
  'norm_eps': 1e-6,
  'interpolation_scale': None,
}
# Ours: diffusers' model has no such head and ignores both key and tensors.
_LOGVAR = 'logvar'
_DEFAULTS = {
  **SHARED_DEFAULTS,
  'guidance_embeds': False,
  'guidance_embeds_scale': 0.1,
  'qk_norm': None,
  'timestep_scale': 1.0,
}
_QK_NORM = 'rms_norm_across_heads'
_MAX_WIDTH = 2**16
_WIDTH, _HEADS = fields.integer(1, _MAX_WIDTH), fields.integer(1, 2**12)
_CHANNELS = fields.integer(1, 2**12)
SHARED_FIELDS = {
  'in_channels': _CHANNELS,
  'out_channels': fields.either(_CHANNELS, fields.NULL),
  'num_attention_heads': _HEADS,
  'attention_head_dim': _HEADS,
  'num_layers': fields.integer(1, 1000),
  'num_cross_attention_heads': _HEADS,
  'cross_attention_head_dim': _WIDTH,
  'cross_attention_dim': _WIDTH,
  'caption_channels': _WIDTH,
  'mlp_ratio': fields.number(0.1, 100),
  'dropout': fields.number(0, 1),
  'attention_bias': fields.FLAG,
  'sample_size': fields.integer(1, 1024),
  'patch_size': fields.integer(1, 64),
  'norm_elementwise_affine': fields.FLAG,
  'norm_eps': fields.number(0, 1),
  'interpolation_scale': fields.either(fields.number(0.01, 100), fields.NULL),
}
_FIELDS = {
  **SHARED_FIELDS,
  'guidance_embeds': fields.FLAG,
  'guidance_embeds_scale': fields.number(-1e6, 1e6),
  _LOGVAR: fields.FLAG,
  'qk_norm': fields.either(fields.choice(_QK_NORM), fields.NULL),
  'timestep_scale': fields.number(1e-6, 1e6),
}


def fields_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `Sana`, from a transformer/config.json."""
  config, width = checked(
    'transformer',
    'SanaTransformer2DModel',
    config,
    _DEFAULTS | {_LOGVAR: False},
    _FIELDS,
  )
  norm = config['qk_norm'] is not None
  return {
    **{field: config[key] for key, field in _COPIED.items()},
    'width': width,
    'qk_norm': norm,
    'cross_norm': norm,
    'logvar': config[_LOGVAR],
    'out_channels': config['out_channels'] or config['in_channels'],
  }


def checked(
  part: str,
  name: str,
  config: Mapping[str, Any],
  defaults: Mapping[str, Any],
  allowed: Mapping[str, fields.Field],
) -> tuple[dict[str, Any], int]:
  """A checked config.json of class `name` with defaults, and its width."""
  if (got := config.get('_class_name', name)) != name:
    raise UserError(
      f'The {part} is a {fields.shown(got)}; {name} is supported.',
      key='_class_name',
      value=got,
      allowed=(name,),
    )
  where = f'{part}/config.json'
  config = {
    **defaults,
    **{key: value for key, value in config.items() if not key.startswith('_')},
  }
  fields.check_known(where, config, defaults)
  fields.check(where, config, allowed)
  width = config['num_attention_heads'] * config['attention_head_dim']
  cross = (
    config['num_cross_attention_heads'],
    config['cross_attention_head_dim'],
  )
  if width > _MAX_WIDTH:
    raise UserError(
      f'{where}: num_attention_heads x attention_head_dim is {width:,}, '
      f'allowed is at most {_MAX_WIDTH:,}.',
      key='num_attention_heads',
      value=width,
      allowed=f'{_MAX_WIDTH} or less',
    )
  if cross[0] * cross[1] != width or config['cross_attention_dim'] != width:
    raise UserError(
      f'{where}: the cross-attention ({cross[0]} x {cross[1]}, '
      f'dimension {config["cross_attention_dim"]}) must be as wide as the '
      f'model ({width}).',
      key='cross_attention_dim',
      value=(*cross, config['cross_attention_dim']),
      allowed=f'width {width}',
    )
  if config['patch_size'] > config['sample_size']:
    raise UserError(
      f'{where}: patch_size is {config["patch_size"]}, allowed is at most '
      f'sample_size, {config["sample_size"]}.',
      key='patch_size',
      value=config['patch_size'],
      allowed=f'{config["sample_size"]} or less',
    )
  return config, width


def diffusers_config(model: Mapping[str, Any]) -> dict[str, Any]:
  """The transformer/config.json of a model; inverse of the above."""
  check_norms(model)
  return {
    '_class_name': 'SanaTransformer2DModel',
    **_DEFAULTS,
    **{key: model[field] for key, field in _COPIED.items()},
    **widths(model),
    'out_channels': model['out_channels'],
    'qk_norm': _QK_NORM if model['qk_norm'] else None,
  } | ({_LOGVAR: True} if model['logvar'] else {})


def check_norms(model: Mapping[str, Any]) -> None:
  """Raises UserError for fields with only one of both norms."""
  if model['qk_norm'] != model['cross_norm']:
    raise UserError(
      'diffusers has one flag for qk_norm and cross_norm; '
      'they must be equal to export.',
      key='cross_norm',
      value=model['cross_norm'],
      allowed=(model['qk_norm'],),
    )


def widths(model: Mapping[str, Any]) -> dict[str, int]:
  """Keys from which diffusers derives the width, or which repeat it."""
  width = model['width']
  return {
    'num_attention_heads': width // model['head_dim'],
    'cross_attention_head_dim': width // model['cross_heads'],
    'cross_attention_dim': width,
  }


def rules(guidance_embeds: bool = False) -> list[Rule]:
  """Rules of a model; the time embedding's keys depend on `guidance_embeds`."""
  return [
    *embedding_rules('time_embed.' if guidance_embeds else 'time_embed.emb.'),
    *layer(
      'time_embed.guidance_embedder.linear_1', 'time_embed/guidance/linear1'
    ),
    *layer(
      'time_embed.guidance_embedder.linear_2', 'time_embed/guidance/linear2'
    ),
    *block_rules(),
    Rule('scale_shift_table', 'head/scale_shift_table'),
    *layer('proj_out', 'head/out'),
    *layer(_LOGVAR, 'log_variance'),
  ]


def embedding_rules(time: str = 'time_embed.emb.') -> list[Rule]:
  """Rules of latent, time and caption embeddings; `time` is a prefix."""
  return [
    *layer('patch_embed.proj', 'patch_embed', CONV),
    *layer(f'{time}timestep_embedder.linear_1', 'time_embed/timestep/linear1'),
    *layer(f'{time}timestep_embedder.linear_2', 'time_embed/timestep/linear2'),
    *layer('time_embed.linear', 'time_embed/modulation'),
    *layer('caption_projection.linear_1', 'caption/linear1'),
    *layer('caption_projection.linear_2', 'caption/linear2'),
    Rule('caption_norm.weight', 'caption/norm/scale'),
  ]


def block_rules() -> list[Rule]:
  """Rules of all blocks, whose parameters are stacked."""
  block = 'transformer_blocks.{i}.'
  out = [Rule(block + 'scale_shift_table', 'blocks/scale_shift_table')]
  for theirs, ours in (
    ('attn1', 'self_attention'),
    ('attn2', 'cross_attention'),
  ):
    key, path = f'{block}{theirs}.', f'blocks/{ours}/'
    for a, b in (('q', 'query'), ('k', 'key'), ('v', 'value')):
      out += layer(f'{key}to_{a}', path + b)
    out += layer(f'{key}to_out.0', path + 'out')
    out += [
      Rule(f'{key}norm_q.weight', path + 'query_norm/scale'),
      Rule(f'{key}norm_k.weight', path + 'key_norm/scale'),
    ]
  return out + [
    Rule(block + 'norm2.weight', 'blocks/norm_ffn/scale'),
    Rule(block + 'norm2.bias', 'blocks/norm_ffn/bias'),
    *layer(block + 'ff.conv_inverted', 'blocks/mix_ffn/inverted', POINTWISE),
    *layer(block + 'ff.conv_depth', 'blocks/mix_ffn/depthwise', DEPTHWISE),
    Rule(
      block + 'ff.conv_point.weight', 'blocks/mix_ffn/point/kernel', POINTWISE
    ),
  ]


def layer(key: str, path: str, transform: Transform = LINEAR) -> list[Rule]:
  """Rules of a layer's weight and bias."""
  return [
    Rule(f'{key}.weight', f'{path}/kernel', transform),
    Rule(f'{key}.bias', f'{path}/bias'),
  ]
