"""The keys of the models: fields of their modules, with the largest sizes.

Bounds are those of the exchange formats (`weights/`), so that a trained model
can be loaded again, and no model is built with an absurd size.
"""

import dataclasses

from sana_jax import fields
from sana_jax.config.sizes import SANA_SIZES
from sana_jax.fields import Field
from sana_jax.keys import (
  Key,
  LAYOUT,
  most,
  NOT_NEGATIVE,
  one_of,
  POSITIVE,
  PROGRAM,
  size,
)
from sana_jax.models import gemma2, remat
from sana_jax.models.autoencoders import dc_ae
from sana_jax.models.autoencoders.dc_ae.autoencoder import CHOICES

_WIDTH, _HEADS, _LAYERS = size(2**16), size(2**12), size(1000)
_MEMORY = PROGRAM | LAYOUT  # The same results with other memory use.
_NUMBER = POSITIVE, most(10**9)
_STAGES = 10


def _field(default, comment, *check):
  """An optional key."""
  return Key(default, comment, check, optional=True)


_RECOMPUTED = Key(
  False,
  'Recompute activations in the backward pass.',
  changes=_MEMORY,
  optional=True,
)

_SANA = {
  'width': Key(0, 'Channels of a block.', _WIDTH),
  'depth': Key(0, 'Blocks.', _LAYERS),
  'cross_heads': Key(0, 'Heads of the attention on the text.', _HEADS),
  'sample_size': Key(32, 'Side of the latents in training.', size(1024)),
  'qk_norm': Key(False, 'RMSNorm on queries and keys of the self-attention.'),
  'cross_norm': Key(False, 'RMSNorm in the attention on the text.'),
  'timestep_scale': Key(
    1.0, 'Factor of timesteps; 0.001 for times in [0, 1].', _NUMBER
  ),
  'text_norm_scale': Key(0.01, "Initial scale of the captions' norm."),
  'remat': Key(
    'none',
    'Recomputation in the backward pass: models/remat.py.',
    one_of(remat.NAMES),
    _MEMORY,
  ),
  'unroll': Key(
    1,
    'Blocks per iteration of the scan: more speed and compile time.',
    _LAYERS,
    PROGRAM,
  ),
  'head_dim': _field(32, 'Channels of a self-attention head.', *_HEADS),
  'in_channels': _field(32, 'Channels of the latents.', *_HEADS),
  'out_channels': _field(32, 'Channels of the velocity.', *_HEADS),
  'caption_channels': _field(2304, 'Width of the text encoder.', *_WIDTH),
  'mlp_ratio': _field(2.5, 'Ratio of the Mix-FFN.', POSITIVE, most(100)),
  'patch_size': _field(1, 'Side of a token, in latents.', *size(64)),
  'attention_bias': _field(False, 'Biases of the projections.'),
  'norm_eps': _field(1e-6, 'Epsilon of layer norms.', NOT_NEGATIVE, most(1)),
  'norm_affine': _field(False, 'Layer norms have scales.'),
  'guidance_embeds': _field(False, 'The guidance scale is an input (Sprint).'),
  'guidance_embeds_scale': _field(0.1, 'Factor of that input.'),
  'logvar': _field(False, 'A head for the log-variance of the error (Sprint).'),
  'interpolation_scale': _field(
    None,
    'Scale of the position embedding; none has no embedding.',
    fields.either(
      fields.number(0.01, 100), Field('none', lambda value: value is None)
    ),
  ),
  'attention_eps': _field(
    1e-15, 'Epsilon of the linear attention.', NOT_NEGATIVE, most(1)
  ),
  'cross_norm_eps': _field(
    1e-5, 'Epsilon of qk_norm and cross_norm.', NOT_NEGATIVE, most(1)
  ),
  'control_after': _field(
    1,
    'Block that the first output of a ControlNet follows.',
    NOT_NEGATIVE,
    most(1000),
  ),
  'rounded_timesteps': _field(False, 'Timesteps are cast to dtype first.'),
}

_EACH_WIDTH = fields.list_of(fields.integer(1, 2**16), 1, _STAGES)
_EACH_DEPTH = fields.list_of(fields.integer(0, 32), 1, _STAGES)
_EACH_SCALES = fields.list_of(
  fields.list_of(fields.integer(1, 31), 0, 8), 1, _STAGES
)


def _words(name):
  return fields.list_of(fields.choice(*CHOICES[name]), 1, _STAGES)


_DC_AE = {
  **{
    f'{side}_{name}': Key((), f'{comment} by stage of the {side}.', check)
    for side in ('encoder', 'decoder')
    for name, comment, check in (
      ('blocks', 'Kind of block', _words(f'{side}_blocks')),
      ('widths', 'Channels', _EACH_WIDTH),
      ('depths', 'Number of blocks', _EACH_DEPTH),
      ('scales', "Kernel sizes of the attention's context", _EACH_SCALES),
    )
  },
  'decoder_norms': Key((), 'Norm by stage.', _words('decoder_norms')),
  'decoder_acts': Key((), 'Activation by stage.', _words('decoder_acts')),
  'downsample': Key('', 'Layer between stages.', one_of(CHOICES['downsample'])),
  'upsample': Key('', 'Layer between stages.', one_of(CHOICES['upsample'])),
  'scaling_factor': Key(
    0.0, 'Factor that gives latents unit variance.', _NUMBER
  ),
  'decoder_out_act': _field(
    'relu',
    'Activation before the output layer.',
    one_of(CHOICES['decoder_out_act']),
  ),
  'encoder_out_shortcut': _field(True, 'Averages channels into the latents.'),
  'decoder_in_shortcut': _field(True, 'Repeats the channels of the latents.'),
  'in_channels': _field(3, 'Channels of the images.', *_HEADS),
  'latent_channels': _field(32, 'Channels of the latents.', *_HEADS),
  'head_dim': _field(32, 'Channels of a linear attention head.', *_HEADS),
  'remat': _RECOMPUTED,
}

_GEMMA2 = {
  'vocab_size': Key(0, "Overridden by the tokenizer's.", size(2**21)),
  'width': Key(0, 'Channels of a layer.', size(2**18)),
  'depth': Key(0, 'Layers.', _LAYERS),
  'heads': Key(0, 'Heads of queries.', size(1024)),
  'kv_heads': Key(0, 'Heads of keys and values.', size(1024)),
  'head_dim': Key(0, 'Channels of a head.', _HEADS),
  'hidden': Key(0, 'Channels of the gated MLP.', size(2**18)),
  'query_scale': Key(
    0, 'Logits of the attention are divided by its square root.', size(10**9)
  ),
  'attention_softcap': _field(50.0, 'Softcap of the attention.', *_NUMBER),
  'final_softcap': _field(30.0, 'Softcap of the logits.', *_NUMBER),
  'sliding_window': _field(
    4096, 'Attention window of a sliding layer.', *size(2**30)
  ),
  'rope_theta': _field(1e4, 'Base of the rotary embedding.', *_NUMBER),
  'eps': _field(1e-6, 'Epsilon of the norms.', *_NUMBER),
  'layer_types': _field(
    (),
    "'sliding' or 'full' of each layer; () alternates.",
    fields.list_of(fields.choice('sliding', 'full'), 0, 1000),
  ),
  'remat': _RECOMPUTED,
}


def _of_size(keys, values):
  """The keys of `config.model`, with the values of a published size."""
  return {
    f'model.{name}': dataclasses.replace(
      key, default=values.get(name, key.default)
    )
    for name, key in keys.items()
  }


SANA = _of_size(_SANA, SANA_SIZES['sana_600m_1024'])
# Fields that a Sprint needs, or may need for its loss.
SPRINT = SANA | {
  f'model.{name}': dataclasses.replace(
    SANA[f'model.{name}'], default=value, optional=False
  )
  for name, value in (
    ('guidance_embeds', True),
    ('guidance_embeds_scale', 0.1),
    ('timestep_scale', 0.001),
    ('logvar', False),
  )
}
DC_AE = _of_size(_DC_AE, dc_ae.SIZES['dc_ae_f32c32_sana'])
GEMMA2 = _of_size(_GEMMA2, gemma2.SIZES['gemma2_2b'])
