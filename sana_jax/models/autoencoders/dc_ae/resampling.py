"""Halving and doubling an image's sides (DC-AE, arXiv:2410.10733, section 3.2).

Every resampling convolution has a shortcut without parameters: space to
channels, then the mean of consecutive channels, on the way down; repeated
channels, then channels to space, on the way up. Channels are ordered
(c, row, column), as in PyTorch.

Nearest-neighbour upsampling before a 3x3 convolution is not carried out: an
output pixel sees only 2x2 different inputs, so four 2x2 convolutions of the
small image, one for each parity of row and column, give the same with 16
multiplications for every 36 (2 to 3.5 times faster on CPU, backward too).
"""

from einops import rearrange
import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.autoencoders.dc_ae.blocks import conv3x3
from sana_jax.typing import Array, DType, Float


def space_to_channels(
  x: Float[Array, 'b y x c'],
) -> Float[Array, 'b y//2 x//2 4*c']:
  """PyTorch's pixel_unshuffle by 2."""
  return rearrange(x, 'b (y i) (x j) c -> b y x (c i j)', i=2, j=2)


def channels_to_space(
  x: Float[Array, 'b y x c'],
) -> Float[Array, 'b 2*y 2*x c//4']:
  """PyTorch's pixel_shuffle by 2."""
  return rearrange(x, 'b y x (c i j) -> b (y i) (x j) c', i=2, j=2)


def mean_channels(
  x: Float[Array, '*b c'], channels: int
) -> Float[Array, '*b {channels}']:
  """Means of consecutive channels, so that `channels` remain."""
  return jnp.mean(x.reshape(*x.shape[:-1], channels, -1), axis=-1)


def repeat_channels(
  x: Float[Array, '*b c'], channels: int
) -> Float[Array, '*b {channels}']:
  """Each channel repeated in place, so that there are `channels`."""
  return jnp.repeat(x, channels // x.shape[-1], axis=-1)


def upsampling_conv(
  x: Float[Array, 'b y x c'], kernel: Float[Array, '3 3 c d']
) -> Float[Array, 'b 2*y 2*x d']:
  """conv3x3(nearest(x)), nearest doubling the sides; zero padding."""
  b, height, width, _ = x.shape

  def conv(taps, i, j):
    return jax.lax.conv_general_dilated(
      x,
      taps.astype(x.dtype),
      (1, 1),
      ((1 - i, i), (1 - j, j)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  parities = [
    jnp.stack([conv(taps, i, j) for j, taps in enumerate(_merge(rows, 1))], 3)
    for i, rows in enumerate(_merge(kernel, 0))
  ]
  return jnp.stack(parities, 2).reshape(b, 2 * height, 2 * width, -1)


def _merge(kernel, axis):
  """Taps of even and of odd outputs: those on the same input are added."""
  first, middle, last = jnp.split(kernel, 3, axis)
  return (
    jnp.concatenate([first, middle + last], axis),
    jnp.concatenate([first + middle, last], axis),
  )


class UpsamplingConv(nn.Module):
  """`upsampling_conv` with the parameters of a 3x3 convolution."""

  features: int
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x c']
  ) -> Float[Array, 'b 2*y 2*x {self.features}']:
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (3, 3, x.shape[-1], self.features),
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return upsampling_conv(x, kernel) + bias.astype(self.dtype)


class Down(nn.Module):
  """Halves the sides: by a strided convolution, or by pixel_unshuffle."""

  features: int
  kind: str
  shortcut: bool = True
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x c']
  ) -> Float[Array, 'b y//2 x//2 {self.features}']:
    if self.kind == 'pixel_unshuffle':
      y = conv3x3(self.features // 4, dtype=self.dtype, name='conv')(x)
      y = space_to_channels(y)
    else:
      y = conv3x3(self.features, strides=(2, 2), dtype=self.dtype, name='conv')(
        x
      )
    if self.shortcut:
      y += mean_channels(space_to_channels(x), self.features)
    return y


class Up(nn.Module):
  """Doubles the sides: nearest neighbour and convolution, or pixel_shuffle."""

  features: int
  kind: str
  shortcut: bool = True
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x c']
  ) -> Float[Array, 'b 2*y 2*x {self.features}']:
    if self.kind == 'pixel_shuffle':
      y = conv3x3(4 * self.features, dtype=self.dtype, name='conv')(x)
      y = channels_to_space(y)
    else:
      y = UpsamplingConv(self.features, self.dtype, name='conv')(x)
    if self.shortcut:
      y += channels_to_space(repeat_channels(x, 4 * self.features))
    return y
