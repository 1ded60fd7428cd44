"""Parts of DC-AE, each with its name in diffusers and its module here.

Each maps an image to an image.
"""

from collections.abc import Callable
import dataclasses

import flax.linen as nn

from sana_jax.models.autoencoders.dc_ae import blocks, DCAE, resampling
from sana_jax.models.layers import RMSNorm
from sana_jax.typing import DType

LINEAR, QUADRATIC = (3, 5), (2, 2)  # Positions, for heads of at least 8.


@dataclasses.dataclass(frozen=True)
class Part:
  """A part's name in diffusers, and its module in sana_jax.

  Attributes:
    path: path of sana_jax's parameters.
    make: makes sana_jax's module from the model and the dtype.
    structure: structure of its model.
    positions: positions of that model's latents.
    channels_last: whether diffusers calls it with channels last.
  """

  name: str
  path: str
  make: Callable[[DCAE, DType], nn.Module]
  structure: str = 'sana'
  positions: tuple[int, int] = LINEAR
  channels_last: bool = False


def resblock(norm: str, act: str):
  return lambda model, dtype: blocks.ResBlock(norm, act, dtype)


def attention(*scales: int, norm: str = 'rms_norm'):
  return lambda model, dtype: blocks.MultiScaleAttention(
    scales, model.head_dim, norm, dtype
  )


def efficient_vit(*scales: int):
  return lambda model, dtype: blocks.EfficientViTBlock(
    scales, model.head_dim, dtype=dtype
  )


def down(stage: int, shortcut: bool = True):
  """Downsampling to a stage of the encoder."""
  return lambda model, dtype: resampling.Down(
    model.encoder_widths[stage], model.downsample, shortcut, dtype
  )


def up(stage: int):
  """Upsampling to a stage of the decoder."""
  return lambda model, dtype: resampling.Up(
    model.decoder_widths[stage], model.upsample, dtype=dtype
  )


def last_up(model, dtype):
  return resampling.Up(model.in_channels, model.upsample, False, dtype)


def first_convolution(model, dtype):
  return blocks.conv3x3(model.encoder_widths[0], dtype=dtype, name='conv_in')


def rms_norm(model, dtype):
  return RMSNorm(blocks.EPS, use_bias=True, dtype=dtype)


def batch_norm(model, dtype):
  return blocks.BatchNorm(dtype)


def glumb_conv(model, dtype):
  return blocks.GLUMBConv(dtype)


_IN = 'encoder.down_blocks.5.0', 'encoder/stage_5/block_0'
_ATTENTION = f'{_IN[0]}.attn', f'{_IN[1]}/attention'
PARTS = {
  'RMS norm with bias': Part(
    'decoder.norm_out', 'decoder/norm_out', rms_norm, channels_last=True
  ),
  'batch norm': Part(
    'decoder.up_blocks.1.1.norm',
    'decoder/stage_1/block_1/norm',
    batch_norm,
    'mix',
  ),
  'convolution': Part('encoder.conv_in', 'encoder/conv_in', first_convolution),
  'ResBlock, SiLU, RMS norm': Part(
    'encoder.down_blocks.0.0',
    'encoder/stage_0/block_0',
    resblock('rms_norm', 'silu'),
  ),
  'ResBlock, ReLU, batch norm': Part(
    'decoder.up_blocks.1.1',
    'decoder/stage_1/block_1',
    resblock('batch_norm', 'relu'),
    'mix',
  ),
  'linear attention': Part(*_ATTENTION, attention(), 'mix'),
  'linear attention, scale 5': Part(*_ATTENTION, attention(5)),
  'linear attention, scales 3 and 5, batch norm': Part(
    'decoder.up_blocks.2.0.attn',
    'decoder/stage_2/block_0/attention',
    attention(5, 3, norm='batch_norm'),
    'several',
  ),
  'quadratic attention': Part(*_ATTENTION, attention(), 'mix', QUADRATIC),
  'quadratic attention, scale 5': Part(
    *_ATTENTION, attention(5), positions=QUADRATIC
  ),
  'GLUMBConv': Part(f'{_IN[0]}.conv_out', f'{_IN[1]}/ffn', glumb_conv),
  'EfficientViT block': Part(*_IN, efficient_vit(5)),
  'down, strided': Part(
    'encoder.down_blocks.2.1', 'encoder/stage_2/down_1', down(3)
  ),
  'down, pixel unshuffle': Part(
    'encoder.down_blocks.2.1', 'encoder/stage_2/down_1', down(3), 'mix'
  ),
  'down, without shortcut': Part(
    'encoder.conv_in', 'encoder/conv_in', down(1, shortcut=False), 'mix'
  ),
  'up, nearest': Part('decoder.up_blocks.1.0', 'decoder/stage_1/up_0', up(1)),
  'up, pixel shuffle': Part(
    'decoder.up_blocks.1.0', 'decoder/stage_1/up_0', up(1), 'mix'
  ),
  'up, without shortcut': Part(
    'decoder.conv_out', 'decoder/conv_out', last_up, 'mix'
  ),
}
