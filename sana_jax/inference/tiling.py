"""Tiled DC-AE, equal to diffusers' AutoencoderDC.enable_tiling.

Tiles of at most `size` pixels start every `stride` pixels. Each is blended with
its upper, then its left neighbour over size - stride pixels with a linear ramp
from 0, and cut to its stride. The neighbours used are already blended, which
matters where the overlap is longer than the rest of a tile. Tiles are computed
independently, so that the picture differs from an untiled one; for an exact
decode see strip_decoding.py.
"""

from collections.abc import Callable
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.errors import UserError
from sana_jax.typing import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Tiles:
  """Size and stride in pixels; the defaults are diffusers'."""

  size: int = 512
  stride: int = 448

  def latent(self, compression: int) -> tuple[int, int]:
    """(size, stride) in latents.

    Raises UserError unless both are multiples of the compression.
    """
    if self.size % compression or self.stride % compression:
      raise UserError(
        f'Tiles of {self.size} px every {self.stride} px do not fit the '
        f'autoencoder; both must be multiples of {compression}.',
        key='parts',
        value=(self.size, self.stride),
        allowed=f'multiples of {compression}',
      )
    if not 0 < self.stride <= self.size:
      raise UserError(
        f'The stride of the tiles is {self.stride} px; it must '
        f'lie between {compression} and their size, {self.size}.',
        key='parts',
        value=(self.size, self.stride),
        allowed=f'a stride of {compression} to {self.size}',
      )
    return self.size // compression, self.stride // compression


def decode(
  model: nn.Module,
  variables: PyTree,
  latents: Float[Array, 'b y x c'],
  tiles: Tiles = Tiles(),
) -> Float[Array, 'b y2 x2 3']:
  """Images of unscaled latents; compiles once per tile shape."""
  size, stride = tiles.latent(model.spec.side)
  if max(latents.shape[1:3]) <= size:
    return _apply(model, 'decode', variables, latents)
  return _tiled(
    lambda x: _apply(model, 'decode', variables, x),
    latents,
    size,
    stride,
    tiles.size - tiles.stride,
    tiles.stride,
  )


def encode(
  model: nn.Module,
  variables: PyTree,
  images: Float[Array, 'b y x 3'],
  tiles: Tiles = Tiles(),
) -> Float[Array, 'b y2 x2 c']:
  """Unscaled latents of images; tiles are zero-padded at the edge."""
  f = model.spec.side
  size, stride = tiles.latent(f)
  if max(images.shape[1:3]) <= tiles.size:
    return _apply(model, 'encode', variables, images)

  def filled(x):
    edges = [(0, 0), *((0, -n % f) for n in x.shape[1:3]), (0, 0)]
    return _apply(model, 'encode', variables, jnp.pad(x, edges))

  height, width = (n // f for n in images.shape[1:3])
  return _tiled(
    filled, images, tiles.size, tiles.stride, size - stride, stride
  )[:, :height, :width]


def one_by_one(
  run: Callable[[Array], Array], batch: Float[Array, 'b y x c']
) -> Float[Array, 'b y2 x2 d']:
  """Runs the examples one by one (diffusers' slicing), to save memory."""
  return jnp.concatenate([run(batch[i : i + 1]) for i in range(len(batch))])


@functools.partial(jax.jit, static_argnames='extent')
def _blended(tile, above, left, extent):
  """A tile blended at its upper and left edges; `extent` may be truncated."""
  if above is not None:
    tile = _fade(above, tile, 1, extent)
  if left is not None:
    tile = _fade(left, tile, 2, extent)
  return tile


def _fade(a, b, axis, extent):
  extent = min(a.shape[axis], b.shape[axis], extent)
  ramp = jnp.arange(extent, dtype=b.dtype) / extent
  ramp = jnp.expand_dims(ramp, [i for i in range(4) if i != axis])
  ends, starts = ([slice(None)] * 4 for _ in range(2))
  ends[axis] = slice(a.shape[axis] - extent, None)
  starts[axis] = slice(extent)
  faded = a[tuple(ends)] * (1 - ramp) + b[tuple(starts)] * ramp
  return b.at[tuple(starts)].set(faded.astype(b.dtype))


def _tiled(run, x, size, stride, extent, kept):
  """Runs tiles, blends them and joins the first `kept` pixels of each."""
  rows, above = [], {}
  for y in range(0, x.shape[1], stride):
    row, left = [], None
    for j, z in enumerate(range(0, x.shape[2], stride)):
      tile = run(x[:, y : y + size, z : z + size])
      tile = _blended(tile, above.get(j), left, extent)
      above[j] = left = tile
      row.append(tile[:, :kept, :kept])
    rows.append(jnp.concatenate(row, axis=2))
  return jnp.concatenate(rows, axis=1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(model, method, variables, x):
  return model.apply(variables, x, method=method)
