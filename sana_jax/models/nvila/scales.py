"""S2: features of a picture at several scales, joined by channel.

"When do we not need larger vision models?" (arXiv:2403.13043). A picture is
resized to several sizes, cut into tiles of the tower's size, and the tiles'
maps are put together again, averaged to one size and concatenated (NVILA,
arXiv:2412.04468; NVlabs/VILA, `merge_features_for_dynamic_s2`, and the package
scaling_on_scales).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sana_jax.typing import Array, Float


class Scales(NamedTuple):
  """Arrangement of the tiles of a picture.

  Attributes:
    grids: rows and columns of tiles at each scale, in the order of the tiles.
    output: index of the scale whose map has the size of the result.
    by_tile: the projector sees the result in blocks of a tile's size, and not
      as a whole.
  """

  grids: tuple[tuple[int, int], ...]
  output: int = 0
  by_tile: bool = False

  @property
  def tiles(self) -> int:
    return sum(rows * columns for rows, columns in self.grids)


def joined(
  x: Float[Array, 'b t y x c'], grid: tuple[int, int]
) -> Float[Array, 'b y2 x2 c']:
  """One map of the maps of its tiles, given row by row."""
  b, _, y, x_, c = x.shape
  x = x.reshape(b, *grid, y, x_, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, grid[0] * y, grid[1] * x_, c)


def cut(
  x: Float[Array, 'b y x c'], grid: tuple[int, int]
) -> Float[Array, 'b t y2 x2 c']:
  """Tiles of a map, row by row; the inverse of `joined`."""
  b, y, x_, c = x.shape
  rows, columns = grid
  x = x.reshape(b, rows, y // rows, columns, x_ // columns, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, rows * columns, y // rows, x_ // columns, c)


def features(
  x: Float[Array, 'b t y x c'], scales: Scales
) -> Float[Array, 'b y2 x2 c2']:
  """Map of all scales, of the size of one of them."""
  maps, start = [], 0
  for rows, columns in scales.grids:
    end = start + rows * columns
    maps.append(joined(x[:, start:end], (rows, columns)))
    start = end
  height, width = maps[scales.output].shape[1:3]
  return jnp.concatenate([averaged(m, height, width) for m in maps], axis=-1)


def averaged(
  x: Float[Array, 'b y x c'], height: int, width: int
) -> Float[Array, 'b {height} {width} c']:
  """Means over areas, in float32, as torch's adaptive pooling."""
  y, x_ = x.shape[1:3]
  if (y, x_) == (height, width):
    return x
  out = jnp.einsum(
    'pi,qj,bijc->bpqc',
    _means(y, height),
    _means(x_, width),
    x.astype(jnp.float32),
  )
  return out.astype(x.dtype)


def _means(size: int, out: int) -> np.ndarray:
  """Matrix of means: row i covers floor(i size/out) to ceil((i+1) size/out)."""
  matrix = np.zeros((out, size), np.float32)
  for i in range(out):
    start, end = i * size // out, -(-(i + 1) * size // out)
    matrix[i, start:end] = 1 / (end - start)
  return matrix
