"""DC-AE to and from diffusers' AutoencoderDC: weights and config.json.

Models with batch normalisation also have statistics, in the collection
'batch_stats'; `VARIABLES` has the rules of both collections.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.models.autoencoders.dc_ae.autoencoder import BLOCKS
from sana_jax.weights.table import Rule
from sana_jax.weights.transforms import (
  CONV,
  DEPTHWISE,
  LINEAR,
  POINTWISE,
  Transform,
)

# 1x1 convolution in groups: (groups * out, in, 1, 1) <-> (groups, in, out).
GROUPED = Transform(
  lambda x: x.reshape(-1, x.shape[1], x.shape[1]).transpose(0, 2, 1),
  lambda x: x.transpose(0, 2, 1).reshape(-1, x.shape[1], 1, 1),
)
COUNT = Transform(lambda x: x.astype(np.int32), lambda x: x.astype(np.int64))


def _norm(key: str, path: str) -> list[Rule]:
  return [
    Rule(f'{key}.weight', f'{path}/scale'),
    Rule(f'{key}.bias', f'{path}/bias'),
  ]


def _conv(key: str, path: str, transform: Transform = CONV) -> list[Rule]:
  return [
    Rule(f'{key}.weight', f'{path}/kernel', transform),
    Rule(f'{key}.bias', f'{path}/bias'),
  ]


def _side(side: str, stages: str, resampling: str) -> list[Rule]:
  key, path = f'{side}.{stages}.{{s}}.{{b}}', f'{side}/stage_{{s}}/block_{{b}}'
  attention, ffn = f'{path}/attention', f'{path}/ffn'
  scale = f'{key}.attn.to_qkv_multiscale.{{i}}'
  return [
    *_conv(f'{side}.conv_in', f'{side}/conv_in'),
    *_conv(f'{side}.conv_out', f'{side}/conv_out'),
    # These two also resample if the first stage is empty.
    *_conv(f'{side}.conv_in.conv', f'{side}/conv_in/conv'),
    *_conv(f'{side}.conv_out.conv', f'{side}/conv_out/conv'),
    *_conv(f'{key}.conv', f'{side}/stage_{{s}}/{resampling}_{{b}}/conv'),
    *_conv(f'{key}.conv1', f'{path}/conv1'),
    Rule(f'{key}.conv2.weight', f'{path}/conv2/kernel', CONV),
    *_norm(f'{key}.norm', f'{path}/norm'),
    Rule(f'{key}.attn.to_q.weight', f'{attention}/query/kernel', LINEAR),
    Rule(f'{key}.attn.to_k.weight', f'{attention}/key/kernel', LINEAR),
    Rule(f'{key}.attn.to_v.weight', f'{attention}/value/kernel', LINEAR),
    Rule(
      f'{scale}.proj_in.weight',
      f'{attention}/scale_{{i}}/depthwise_kernel',
      DEPTHWISE,
    ),
    Rule(
      f'{scale}.proj_out.weight',
      f'{attention}/scale_{{i}}/grouped_kernel',
      GROUPED,
    ),
    Rule(f'{key}.attn.to_out.weight', f'{attention}/out/kernel', LINEAR),
    *_norm(f'{key}.attn.norm_out', f'{attention}/norm'),
    *_conv(f'{key}.conv_out.conv_inverted', f'{ffn}/inverted', POINTWISE),
    Rule(f'{key}.conv_out.conv_depth.weight', f'{ffn}/depth_kernel', DEPTHWISE),
    Rule(f'{key}.conv_out.conv_depth.bias', f'{ffn}/depth_bias'),
    Rule(f'{key}.conv_out.conv_point.weight', f'{ffn}/point/kernel', POINTWISE),
    *_norm(f'{key}.conv_out.norm', f'{ffn}/norm'),
  ]


def _statistics(key: str, path: str) -> list[Rule]:
  return [
    Rule(f'{key}.running_mean', f'{path}/mean'),
    Rule(f'{key}.running_var', f'{path}/var'),
    Rule(f'{key}.num_batches_tracked', f'{path}/count', COUNT),
  ]


RULES = (
  *_side('encoder', 'down_blocks', 'down'),
  *_side('decoder', 'up_blocks', 'up'),
  *_norm('decoder.norm_out', 'decoder/norm_out'),
)
STATISTICS = (
  *_statistics(
    'decoder.up_blocks.{s}.{b}.norm', 'decoder/stage_{s}/block_{b}/norm'
  ),
  *_statistics(
    'decoder.up_blocks.{s}.{b}.attn.norm_out',
    'decoder/stage_{s}/block_{b}/attention/norm',
  ),
)
VARIABLES = (
  *(rule.under('params') for rule in RULES),
  *(rule.under('batch_stats') for rule in STATISTICS),
)


# Arguments of AutoencoderDC: our field and the default of diffusers.
_CONFIG = {
  'in_channels': ('in_channels', 3),
  'latent_channels': ('latent_channels', 32),
  'attention_head_dim': ('head_dim', 32),
  'encoder_block_types': ('encoder_blocks', 'ResBlock'),
  'decoder_block_types': ('decoder_blocks', 'ResBlock'),
  'encoder_block_out_channels': (
    'encoder_widths',
    (128, 256, 512, 512, 1024, 1024),
  ),
  'decoder_block_out_channels': (
    'decoder_widths',
    (128, 256, 512, 512, 1024, 1024),
  ),
  'encoder_layers_per_block': ('encoder_depths', (2, 2, 2, 3, 3, 3)),
  'decoder_layers_per_block': ('decoder_depths', (3, 3, 3, 3, 3, 3)),
  'encoder_qkv_multiscales': ('encoder_scales', ((), (), (), (5,), (5,), (5,))),
  'decoder_qkv_multiscales': ('decoder_scales', ((), (), (), (5,), (5,), (5,))),
  'upsample_block_type': ('upsample', 'pixel_shuffle'),
  'downsample_block_type': ('downsample', 'pixel_unshuffle'),
  'decoder_norm_types': ('decoder_norms', 'rms_norm'),
  'decoder_act_fns': ('decoder_acts', 'silu'),
  'encoder_out_shortcut': ('encoder_out_shortcut', True),
  'decoder_in_shortcut': ('decoder_in_shortcut', True),
  'decoder_conv_act_fn': ('decoder_out_act', 'relu'),
  'scaling_factor': ('scaling_factor', 1.0),
}
# Fields for which the config may have one value for all stages.
_PER_STAGE = (
  'encoder_blocks',
  'decoder_blocks',
  'decoder_norms',
  'decoder_acts',
)
_STAGES = 10
_WIDTH, _CHANNELS = fields.integer(1, 2**16), fields.integer(1, 2**12)
_ACTS = ('silu', 'relu')


def _each(field: fields.Field) -> fields.Field:
  return fields.list_of(field, 1, _STAGES)


def _words(*choices: str) -> fields.Field:
  return fields.either(fields.choice(*choices), _each(fields.choice(*choices)))


def _sides(key: str, field: fields.Field) -> dict[str, fields.Field]:
  return {f'{side}_{key}': field for side in ('encoder', 'decoder')}


_FIELDS = {
  'in_channels': _CHANNELS,
  'latent_channels': _CHANNELS,
  'attention_head_dim': _CHANNELS,
  **_sides('block_types', _words(*BLOCKS)),
  **_sides('block_out_channels', _each(_WIDTH)),
  **_sides('layers_per_block', _each(fields.integer(0, 32))),
  **_sides(
    'qkv_multiscales', _each(fields.list_of(fields.integer(1, 31), 0, 8))
  ),
  'upsample_block_type': fields.text(40),
  'downsample_block_type': fields.text(40),
  'decoder_norm_types': _words('rms_norm', 'batch_norm'),
  'decoder_act_fns': _words(*_ACTS),
  'encoder_out_shortcut': fields.FLAG,
  'decoder_in_shortcut': fields.FLAG,
  'decoder_conv_act_fn': fields.choice(*_ACTS),
  'scaling_factor': fields.number(1e-6, 1e6),
}


def fields_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `DCAE`, from vae/config.json.

  Raises:
    UserError: another class, an option that AutoencoderDC does not have, or a
      value out of its range. The model checks combinations of values.
  """
  name = config.get('_class_name', 'AutoencoderDC')
  if name != 'AutoencoderDC':
    raise UserError(
      f"The autoencoder's config.json is of class {fields.shown(name)}; only "
      'AutoencoderDC (DC-AE) is supported: choose another model.',
      key='_class_name',
      value=name,
      allowed=('AutoencoderDC',),
    )
  options = {k: v for k, v in config.items() if not k.startswith('_')}
  fields.check_known('vae/config.json', options, tuple(_CONFIG))
  fields.check('vae/config.json', options, _FIELDS)
  model = {
    field: _tuples(options.get(key, default))
    for key, (field, default) in _CONFIG.items()
  }
  for field in _PER_STAGE:
    if isinstance(model[field], str):
      model[field] = (model[field],) * len(model['encoder_widths'])
  # diffusers only compares with these two; published configs have 'Conv'.
  if model['downsample'] != 'pixel_unshuffle':
    model['downsample'] = 'conv'
  if model['upsample'] != 'interpolate':
    model['upsample'] = 'pixel_shuffle'
  return model


def diffusers_config(model: Mapping[str, Any]) -> dict[str, Any]:
  """The config.json for which diffusers builds DCAE(**model)."""
  config = {'_class_name': 'AutoencoderDC'}
  for key, (field, default) in _CONFIG.items():
    config[key] = _lists(model.get(field, default))
  if config['downsample_block_type'] == 'conv':
    config['downsample_block_type'] = 'Conv'
  return config


def _tuples(x):
  return tuple(map(_tuples, x)) if isinstance(x, list | tuple) else x


def _lists(x):
  return list(map(_lists, x)) if isinstance(x, list | tuple) else x
