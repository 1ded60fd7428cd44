"""Autoencoder interface required by transformers and pipelines.

Every autoencoder works on arrays [batch, *positions, channels]: two axes of
positions for images (height, width), three for videos (time, height, width).
"""

import dataclasses
from typing import Protocol, runtime_checkable

import flax.linen as nn

from sana_jax.errors import UserError
from sana_jax.typing import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class LatentSpec:
  """Shape of the latents of an autoencoder.

  Attributes:
    channels: channels of each position.
    strides: pixels, or frames, per position along each axis: (32, 32) for
      DC-AE's images, (8, 32, 32) for videos.
  """

  channels: int
  strides: tuple[int, ...]

  @property
  def side(self) -> int:
    """Pixels per position of height and width, which must be equal."""
    height, width = self.strides[-2:]
    if height != width:
      raise UserError(
        f'Latents with strides of {height} x {width} pixels are '
        'not supported here; both must be equal.',
        key='strides',
        value=(height, width),
        allowed='two equal numbers',
      )
    return height

  def shape(self, *sizes: int) -> tuple[int, ...]:
    """Shape of one example's latents, from its size along each axis.

    Raises UserError if a size is not a multiple of its stride.
    """
    for size, stride in zip(sizes, self.strides, strict=True):
      if size % stride:
        raise UserError(
          f'The size is {size}; it must be a multiple of the '
          f"autoencoder's compression, {stride}.",
          key='size',
          value=size,
          allowed=f'a multiple of {stride}',
        )
    return (*(n // f for n, f in zip(sizes, self.strides)), self.channels)


@runtime_checkable
class Autoencoder(Protocol):
  """Flax module that converts images in [-1, 1] to latents and back.

  Attributes:
    spec: shape of the latents.
    scale, shift: the transformer's latents are scale * (encode(x) - shift).
    in_channels: channels of the images, 3.
  """

  spec: LatentSpec
  scale: float
  shift: float
  in_channels: int

  def encode(self, images: Array) -> Array:
    """Returns unscaled latents; needs only params['encoder']."""

  def decode(self, latents: Array) -> Array:
    """Returns unclipped images of unscaled latents; needs params['decoder']."""


def encode(
  module: nn.Module, variables: PyTree, images: Float[Array, 'b *p c']
) -> Float[Array, 'b *q d']:
  """Encodes images to the transformer's latents, of about unit variance."""
  return scaled(module, module.apply(variables, images, method='encode'))


def scaled(
  module: nn.Module, latents: Float[Array, 'b *q d']
) -> Float[Array, 'b *q d']:
  """Converts the encoder's latents to the transformer's scale."""
  if module.shift:
    latents = latents - module.shift
  return latents * module.scale


def unscaled(
  module: nn.Module, latents: Float[Array, 'b *q d']
) -> Float[Array, 'b *q d']:
  """Converts latents to the decoder's scale, in the module's dtype."""
  latents = latents.astype(module.dtype) / module.scale
  return latents + module.shift if module.shift else latents
