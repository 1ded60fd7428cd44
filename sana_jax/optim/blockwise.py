"""Float32 arrays as bytes, each block of neighbours with a range of its own.

  low = min of the block,  scale = (max - low) / 255                         (1)
  q = round((x - low) / scale),  x' = q scale + low                          (2)

so that x' is within scale / 2 of x. A block of equal values has scale 0 and is
exact; the official code divides 0 by 0 there.

A block is a tile of the last two axes, and q has the shape of x: q can lie on a
mesh as x does, and no block depends on how many devices there are. Kernels
here are (in, out), where PyTorch's are (out, in).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sana_jax.typing import Array, Float

SIZE = 2048  # Elements of a block at most; rows of PyTorch's, for `row_tile`.
Tile = tuple[int, int]


class Quantised(NamedTuple):
  """Bytes, and what they count from and by.

  q has the shape of the array, low and scale one element a block.
  """

  q: Any
  low: Any
  scale: Any


def quantise(x: Float[Array, '*layers i o'], tile: Tile) -> Quantised:
  """Bytes by (1) and (2); tiles at the far edges may be cut short."""
  tiles = _split(x, tile)
  low, high = tiles.min((-3, -1)), tiles.max((-3, -1))
  # Products: compilers make them of quotients where they like to, and bytes
  # should not depend on that.
  scale = (high - low) * (1 / 255)
  # Scales without an inverse are those of blocks as good as constant.
  inverse = jnp.where(scale > jnp.finfo(jnp.float32).tiny, 1 / scale, 0)
  counted = (x - _spread(low, x.shape, tile)) * _spread(inverse, x.shape, tile)
  return Quantised(jnp.round(counted).astype(jnp.uint8), low, scale)


def zeros(shape: tuple[int, ...], tile: Tile) -> Quantised:
  """Bytes of zeros. To quantise some is work that XLA does when it compiles."""
  like = jax.eval_shape(
    lambda x: quantise(x, tile), jax.ShapeDtypeStruct(shape, jnp.float32)
  )
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)


def dequantise(x: Quantised, tile: Tile) -> Float[Array, '...']:
  """Float32 by (2), with the tile that it was quantised with."""
  shape = x.q.shape
  return x.q * _spread(x.scale, shape, tile) + _spread(x.low, shape, tile)


def element_tile(shape: tuple[int, ...]) -> Tile:
  """Blocks of at most 2048 elements, as SANA-1.5 defines them (2501.18427).

  The paper's are runs of the flattened tensor. These are runs of whole rows, or
  of a row's equal parts where it is longer: 2240 columns are 2 x 1120, and 5760
  are 4 x 1440. Rather 4 parts than 3: over 4 devices 3 could not be split, and
  the array would have to be gathered.
  """
  columns = shape[-1]
  while columns > SIZE and columns % 2 == 0:
    columns //= 2
  columns = _divisor(columns, SIZE)
  return _divisor(shape[-2], SIZE // columns), columns


def row_tile(shape: tuple[int, ...]) -> Tile:
  """Blocks of 2048 output channels, all their inputs included.

  As NVlabs/Sana's `tensor.split(2048)` has it: up to a thousand times as many
  elements as the paper's.
  """
  return shape[-2], min(SIZE, shape[-1])


TILES = {'elements': element_tile, 'rows': row_tile}


def _divisor(number, largest):
  """The largest divisor that is not above `largest`."""
  return next(d for d in range(min(number, largest), 0, -1) if number % d == 0)


def _split(x, tile):
  """[..., i, o] -> [..., i / r, r, o / c, c], padded by the last values."""
  (r, c), (i, o) = tile, x.shape[-2:]
  if i % r or o % c:
    pads = [(0, 0)] * (x.ndim - 2) + [(0, -i % r), (0, -o % c)]
    x = jnp.pad(x, pads, mode='edge')
  rows, columns = x.shape[-2:]
  return x.reshape(*x.shape[:-2], rows // r, r, columns // c, c)


def _spread(blocks, shape, tile):
  """[..., i / r, o / c] -> [..., i, o]: each block's value for its elements."""
  (r, c), (i, o) = tile, shape[-2:]
  *layers, rows, columns = blocks.shape
  tiles = jnp.broadcast_to(
    blocks[..., :, None, :, None], (*layers, rows, r, columns, c)
  )
  return tiles.reshape(*layers, rows * r, columns * c)[..., :i, :o]
