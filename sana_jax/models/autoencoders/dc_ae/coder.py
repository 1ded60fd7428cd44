"""Encoder and decoder of DC-AE: stages of blocks between resamplings.

A stage's parts are numbered in order of computation and named for what they
are: `block_{i}`, then `down_{i}` in the encoder; `up_0`, then `block_{i}` in
the decoder. Stages are numbered from the image to the latents on both sides,
so the decoder runs from the last to the first.

Where the first depth is 0, the first stage is empty and the image is
resampled at once: `conv_in` then halves the sides, or `conv_out` doubles them.

On a mesh, rows of pixels lie on its `sequence` axis: XLA exchanges the rows at
the edges that convolutions see, and sums the state of the attention.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.models import layers
from sana_jax.models.autoencoders.dc_ae import blocks, resampling
from sana_jax.sharding.activations import constrain
from sana_jax.typing import Array, DType, Float


class Stage(nn.Module):
  """Modules of one resolution, one after another: (name, constructor)."""

  parts: tuple[tuple[str, Callable[..., nn.Module]], ...]

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x c']) -> Float[Array, 'b v u w']:
    for name, make in self.parts:
      x = constrain(make(name=name)(x), 'batch', 'tokens', None, None)
    return x


class Encoder(nn.Module):
  """Images to latents."""

  latent_channels: int
  blocks: tuple[str, ...]
  widths: tuple[int, ...]
  depths: tuple[int, ...]
  scales: tuple[tuple[int, ...], ...]
  downsample: str
  out_shortcut: bool = True
  head_dim: int = 32
  remat: bool = False
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, images: Float[Array, 'b y x c']
  ) -> Float[Array, 'b v u {self.latent_channels}']:
    down = functools.partial(
      resampling.Down, kind=self.downsample, dtype=self.dtype
    )
    x = images.astype(self.dtype)
    if self.depths[0]:
      x = blocks.conv3x3(self.widths[0], dtype=self.dtype, name='conv_in')(x)
    else:
      x = down(self.widths[1], shortcut=False, name='conv_in')(x)
    last = len(self.widths) - 1
    for s, depth in enumerate(self.depths):
      make = block_maker(
        self.blocks[s],
        self.scales[s],
        self.head_dim,
        remat=self.remat,
        dtype=self.dtype,
      )
      parts = [(f'block_{i}', make) for i in range(depth)]
      if parts and s < last:
        parts.append(
          (f'down_{depth}', functools.partial(down, self.widths[s + 1]))
        )
      x = Stage(tuple(parts), name=f'stage_{s}')(x)
    out = blocks.conv3x3(
      self.latent_channels, dtype=self.dtype, name='conv_out'
    )(x)
    if self.out_shortcut:
      out += resampling.mean_channels(x, self.latent_channels)
    return out


class Decoder(nn.Module):
  """Latents to images; the convolutions of its first stages cost most."""

  out_channels: int
  blocks: tuple[str, ...]
  widths: tuple[int, ...]
  depths: tuple[int, ...]
  scales: tuple[tuple[int, ...], ...]
  norms: tuple[str, ...]
  acts: tuple[str, ...]
  upsample: str
  out_act: str = 'relu'
  in_shortcut: bool = True
  head_dim: int = 32
  remat: bool = False
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x c'], first: int | None = None, last: int = 0
  ) -> Float[Array, 'b v u w']:
    """Images of latents, or a stretch of that way, for pictures in parts.

    With `first`, x is what comes before that stage; `last` is the stage after
    which to stop, and 0 to end with the image. A `last` that is the number of
    stages leaves `conv_in` alone.
    """
    count = len(self.widths)
    if first is None:
      first, x = count - 1, self.begin(x)
    for s in reversed(range(last, first + 1)):
      x = Stage(self.parts(s), name=f'stage_{s}')(x)
    return x if last else self.end(x)

  def begin(self, latents):
    """Latents at the width of the coarsest stage."""
    latents = latents.astype(self.dtype)
    x = blocks.conv3x3(self.widths[-1], dtype=self.dtype, name='conv_in')(
      latents
    )
    if self.in_shortcut:
      x += resampling.repeat_channels(latents, self.widths[-1])
    return x

  @nn.nowrap
  def parts(self, s: int) -> tuple[tuple[str, Callable[..., nn.Module]], ...]:
    """Names and constructors of a stage's modules, in order."""
    make = block_maker(
      self.blocks[s],
      self.scales[s],
      self.head_dim,
      norm=self.norms[s],
      act=self.acts[s],
      remat=self.remat,
      dtype=self.dtype,
    )
    if not self.depths[s] or s == len(self.widths) - 1:
      return tuple((f'block_{i}', make) for i in range(self.depths[s]))
    return (
      ('up_0', functools.partial(self._up, self.widths[s])),
      *((f'block_{i + 1}', make) for i in range(self.depths[s])),
    )

  @nn.nowrap
  def _up(self, features, **kwargs):
    return resampling.Up(
      features, kind=self.upsample, dtype=self.dtype, **kwargs
    )

  def end(self, x):
    """Images of what the finest stage made."""
    x = layers.RMSNorm(
      blocks.EPS, use_bias=True, dtype=self.dtype, name='norm_out'
    )(x)
    x = blocks.ACTS[self.out_act](x)
    if self.depths[0]:
      return blocks.conv3x3(
        self.out_channels, dtype=self.dtype, name='conv_out'
      )(x)
    return self._up(self.out_channels, shortcut=False, name='conv_out')(x)


def block_maker(
  kind: str,
  scales: tuple[int, ...],
  head_dim: int,
  *,
  norm: str = 'rms_norm',
  act: str = 'silu',
  remat: bool,
  dtype: DType,
) -> Callable[..., nn.Module]:
  """The constructor of a stage's blocks; `remat` recomputes them backward."""
  if kind == 'ResBlock':
    cls, fields = blocks.ResBlock, {'act': act}
  else:
    cls = blocks.EfficientViTBlock
    fields = {'scales': scales, 'head_dim': head_dim}
  cls = nn.remat(cls) if remat else cls
  return functools.partial(cls, norm=norm, dtype=dtype, **fields)
