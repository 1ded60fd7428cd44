"""Blockwise quantization of float32 arrays to bytes.

  low = min of the block,  scale = (max - low) / 255                         (1)
  q = round((x - low) / scale),  x' = q scale + low                          (2)

so that x' is within scale / 2 of x. A block of equal values has scale 0 and is
exact; the official code divides 0 by 0 there.

A block is a tile of the last two axes, and q has the shape of x: q can have the
sharding of x, and no block depends on the number of devices. Kernels here are
(in, out), where PyTorch's are (out, in).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sana_jax.typing import Array, Float

SIZE = 2048  # Elements of a block at most; rows of PyTorch's, for `row_tile`.
Tile = tuple[int, int]


class Quantised(NamedTuple):
  """Bytes q, with the offset and scale of each block.

  q has the shape of the array, low and scale have one element per block.
  """

  q: Any
  low: Any
  scale: Any


def quantise(x: Float[Array, '*layers i o'], tile: Tile) -> Quantised:
  """Quantizes by (1) and (2); tiles at the far edges may be smaller."""
  tiles = _split(x, tile)
  low, high = tiles.min((-3, -1)), tiles.max((-3, -1))
  # Multiplications: compilers may turn divisions into them, and the bytes
  # must not depend on that.
  scale = (high - low) * (1 / 255)
  # Scales without an inverse belong to practically constant blocks.
  inverse = jnp.where(scale > jnp.finfo(jnp.float32).tiny, 1 / scale, 0)
  counted = (x - _spread(low, x.shape, tile)) * _spread(inverse, x.shape, tile)
  return Quantised(jnp.round(counted).astype(jnp.uint8), low, scale)


def zeros(shape: tuple[int, ...], tile: Tile) -> Quantised:
  """Quantized zeros, without quantizing, which XLA would constant-fold."""
  like = jax.eval_shape(
    lambda x: quantise(x, tile), jax.ShapeDtypeStruct(shape, jnp.float32)
  )
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)


def dequantise(x: Quantised, tile: Tile) -> Float[Array, '...']:
  """Float32 by (2), with the tile used for quantization."""
  shape = x.q.shape
  return x.q * _spread(x.scale, shape, tile) + _spread(x.low, shape, tile)


def element_tile(shape: tuple[int, ...]) -> Tile:
  """Tile of at most 2048 elements, as SANA-1.5 defines blocks (2501.18427).

  The paper's are runs of the flattened tensor. These are runs of whole rows, or
  equal parts of a longer row: 2240 columns are 2 x 1120, and 5760 are 4 x 1440.
  4 parts are preferred to 3, which could not be sharded over 4 devices without
  an all-gather of the array.
  """
  columns = shape[-1]
  while columns > SIZE and columns % 2 == 0:
    columns //= 2
  columns = _divisor(columns, SIZE)
  return _divisor(shape[-2], SIZE // columns), columns


def row_tile(shape: tuple[int, ...]) -> Tile:
  """Tile of 2048 output channels with all their inputs.

  It follows NVlabs/Sana's `tensor.split(2048)`, with up to a thousand times as
  many elements as the paper's blocks.
  """
  return shape[-2], min(SIZE, shape[-1])


TILES = {'elements': element_tile, 'rows': row_tile}


def _divisor(number, largest):
  """The largest divisor that is at most `largest`."""
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
  """[..., i / r, o / c] -> [..., i, o], repeating each block's value."""
  (r, c), (i, o) = tile, shape[-2:]
  *layers, rows, columns = blocks.shape
  tiles = jnp.broadcast_to(
    blocks[..., :, None, :, None], (*layers, rows, r, columns, c)
  )
  return tiles.reshape(*layers, rows * r, columns * c)[..., :i, :o]
