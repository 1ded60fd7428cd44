"""DC-AE, SANA's deterministic autoencoder: sides 32 to 128 times smaller.

Deep compression autoencoder (Chen et al., arXiv:2410.10733), every published
variant. Latents of unit variance are `scaling_factor * encode(images)`; as in
diffusers, `encode` and `decode` do not apply it.
"""

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.errors import UserError
from sana_jax.models.autoencoders.base import LatentSpec
from sana_jax.models.autoencoders.dc_ae import coder
from sana_jax.printable import counted
from sana_jax.typing import Array, DType, Float

BLOCKS = ('ResBlock', 'EfficientViTBlock')
# Allowed values, by field.
CHOICES = {
  'encoder_blocks': BLOCKS,
  'decoder_blocks': BLOCKS,
  'downsample': ('conv', 'pixel_unshuffle'),
  'upsample': ('interpolate', 'pixel_shuffle'),
  'decoder_norms': ('rms_norm', 'batch_norm'),
  'decoder_acts': ('silu', 'relu'),
  'decoder_out_act': ('silu', 'relu'),
}


class DCAE(nn.Module):
  """Autoencoder of images in [-1, 1]; tuples have one entry per stage.

  Stages run from the image's resolution to the latents'. With 'batch_norm'
  among `decoder_norms` there is a second collection, 'batch_stats'.
  """

  encoder_blocks: tuple[str, ...]
  decoder_blocks: tuple[str, ...]
  encoder_widths: tuple[int, ...]
  decoder_widths: tuple[int, ...]
  encoder_depths: tuple[int, ...]
  decoder_depths: tuple[int, ...]
  encoder_scales: tuple[tuple[int, ...], ...]  # Kernel sizes of the attention.
  decoder_scales: tuple[tuple[int, ...], ...]
  downsample: str
  upsample: str
  decoder_norms: tuple[str, ...]
  decoder_acts: tuple[str, ...]
  decoder_out_act: str = 'relu'
  encoder_out_shortcut: bool = True
  decoder_in_shortcut: bool = True
  in_channels: int = 3
  latent_channels: int = 32
  head_dim: int = 32
  scaling_factor: float = 1.0
  remat: bool = False  # Blocks are recomputed in the backward pass.
  dtype: DType = jnp.float32

  def setup(self):
    check(self)
    shared = {
      'head_dim': self.head_dim,
      'remat': self.remat,
      'dtype': self.dtype,
    }
    self.encoder = coder.Encoder(
      self.latent_channels,
      self.encoder_blocks,
      self.encoder_widths,
      self.encoder_depths,
      self.encoder_scales,
      self.downsample,
      self.encoder_out_shortcut,
      **shared,
    )
    self.decoder = coder.Decoder(
      self.in_channels,
      self.decoder_blocks,
      self.decoder_widths,
      self.decoder_depths,
      self.decoder_scales,
      self.decoder_norms,
      self.decoder_acts,
      self.upsample,
      self.decoder_out_act,
      self.decoder_in_shortcut,
      **shared,
    )

  @property
  def compression(self) -> int:
    """Pixels per latent position, along each side."""
    return 2 ** (len(self.encoder_widths) - 1)

  @property
  def spec(self) -> LatentSpec:
    """Shape of the latents."""
    return LatentSpec(self.latent_channels, (self.compression,) * 2)

  @property
  def scale(self) -> float:
    """Factor from the encoder's latents to the transformer's."""
    return self.scaling_factor

  @property
  def shift(self) -> float:
    """Offset subtracted from the encoder's latents before scaling: 0."""
    return 0.0

  def __call__(
    self, images: Float[Array, 'b y x c']
  ) -> Float[Array, 'b y x c']:
    """Reconstructs images, using every parameter."""
    return self.decode(self.encode(images))

  def encode(
    self, images: Float[Array, 'b y x c']
  ) -> Float[
    Array,
    'b y//{self.compression} x//{self.compression} {self.latent_channels}',
  ]:
    """Returns unscaled latents; needs only params['encoder']."""
    height, width = images.shape[1:3]
    if height % self.compression or width % self.compression:
      raise UserError(
        f'The autoencoder got images of {width}x{height} pixels; both sides '
        f'must be multiples of {self.compression}: crop or resize them.',
        key='images',
        value=(width, height),
        allowed=f'multiples of {self.compression}',
      )
    return self.encoder(images)

  def decode(
    self, latents: Float[Array, 'b y x {self.latent_channels}']
  ) -> Float[
    Array, 'b {self.compression}*y {self.compression}*x {self.in_channels}'
  ]:
    """Returns unclipped images of unscaled latents; needs params['decoder']."""
    return self.decoder(latents)


def check(model: DCAE):
  """Raises UserError if the fields are inconsistent."""
  for field, allowed in CHOICES.items():
    value = getattr(model, field)
    for word in (value,) if isinstance(value, str) else value:
      if word not in allowed:
        raise UserError(
          f'DC-AE got {field}={word!r}; allowed are {", ".join(allowed)}.',
          key=field,
          value=word,
          allowed=allowed,
        )
  stages = len(model.encoder_widths)
  for side in ('encoder', 'decoder'):
    for name in ('blocks', 'widths', 'depths', 'scales'):
      _check_length(model, f'{side}_{name}', stages)
    depths = getattr(model, f'{side}_depths')
    if 0 in depths[1:]:
      raise UserError(
        f'DC-AE got {side}_depths={depths}; only the first may be 0.',
        key=f'{side}_depths',
        value=depths,
        allowed='positive but for the first',
      )
  for name in ('decoder_norms', 'decoder_acts'):
    _check_length(model, name, stages)


def _check_length(model, field, stages):
  value = getattr(model, field)
  if len(value) != stages:
    raise UserError(
      f'DC-AE got {counted(len(value), "entry", "entries")} in {field}; give '
      f'{stages}, one for each of encoder_widths.',
      key=field,
      value=value,
      allowed=counted(stages, 'entry', 'entries'),
    )
