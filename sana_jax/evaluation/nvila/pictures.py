"""Tiles of a picture, as NVlabs/VILA's mm_utils.py and its processors cut it.

'resize' and None   one tile
'dynamic'           tiles of the grid nearest to the picture's shape, and the
                    whole picture as the last one, if there are several
'dynamic_s2'        the picture at each scale, cut into tiles; the last scale
                    has the grid nearest to its shape
s2                  a square, resized to each scale after normalisation
"""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.models.nvila.scales import Scales
from sana_jax.typing import Float
from sana_jax.typing import Image as Picture
from sana_jax.weights.nvila_config import Settings

FILE = pathlib.Path('vision_tower', 'preprocessor_config.json')
_BICUBIC = int(Image.Resampling.BICUBIC)
_COLOUR = fields.list_of(fields.number(-10, 10), 3, 3)
_TRUE = fields.Field('true', lambda value: value is True)
_ALLOWED = {
  'do_resize': _TRUE,
  'do_rescale': _TRUE,
  'do_normalize': _TRUE,
  'resample': fields.integer(0, 5),
  'rescale_factor': fields.number(1e-6, 1),
  'image_mean': _COLOUR,
  'image_std': fields.list_of(fields.number(1e-6, 10), 3, 3),
}


class Processor(NamedTuple):
  """SigLIP's image processor; `resample` is a filter of Pillow."""

  side: int
  resample: int = _BICUBIC
  factor: float = 1 / 255
  mean: tuple[float, ...] = (0.5, 0.5, 0.5)
  std: tuple[float, ...] = (0.5, 0.5, 0.5)

  def normalised(self, picture: Image.Image) -> Float[np.ndarray, 'y x 3']:
    pixels = np.asarray(picture, np.float32) * np.float32(self.factor)
    return (pixels - np.float32(self.mean)) / np.float32(self.std)


class Cut(NamedTuple):
  """Tiles of a picture, and their arrangement for S2."""

  tiles: Float[np.ndarray, 't y x 3']
  scales: Scales | None


def processor_of(config: Mapping[str, Any], side: int) -> Processor:
  """The processor of a preprocessor_config.json; UserError for another size."""
  where = str(FILE)
  fields.check(where, config, _ALLOWED)
  size = config.get('size', {'height': side, 'width': side})
  if size not in ({'height': side, 'width': side}, {'shortest_edge': side}):
    raise UserError(
      f'{where}: size is {fields.shown(size)}, but the tower has pictures of '
      f'{side} x {side}.',
      key='size',
      value=size,
      allowed=(side,),
    )
  return Processor(
    side,
    config.get('resample', _BICUBIC),
    float(config.get('rescale_factor', 1 / 255)),
    tuple(config.get('image_mean', (0.5,) * 3)),
    tuple(config.get('image_std', (0.5,) * 3)),
  )


def cut(picture: Picture, processor: Processor, settings: Settings) -> Cut:
  """Tiles of a uint8 picture, by the settings of the judge."""
  image = Image.fromarray(picture)
  if settings.aspect == 'dynamic_s2':
    return _dynamic_s2(image, processor, settings)
  if settings.aspect == 'dynamic':
    grid = nearest(image.size, *settings.tiles, processor.side)
    tiles = _tiles(image, grid, processor)
    if len(tiles) > 1:
      tiles += _tiles(image, (1, 1), processor)
    return Cut(np.stack(tiles), None)
  resample = _BICUBIC if settings.aspect == 'resize' else processor.resample
  side = settings.sizes[-1] if settings.sizes else processor.side
  whole = processor.normalised(image.resize((side, side), resample))
  if not settings.sizes:
    return Cut(whole[None], None)
  return _s2(whole, processor.side, settings)


def _tiles(image, grid, processor):
  """Normalised tiles, row by row, of a picture resized to a grid of them."""
  rows, columns = grid
  side = processor.side
  pixels = processor.normalised(
    image.resize((columns * side, rows * side), _BICUBIC)
  )
  return [
    pixels[r * side : (r + 1) * side, c * side : (c + 1) * side]
    for r in range(rows)
    for c in range(columns)
  ]


def _dynamic_s2(image, processor, settings):
  counts = [size // settings.sizes[0] for size in settings.sizes]
  last = nearest(image.size, counts[-1] ** 2, settings.tiles[1], processor.side)
  grids = (*((n, n) for n in counts[:-1]), last)
  tiles = [t for grid in grids for t in _tiles(image, grid, processor)]
  return Cut(np.stack(tiles), Scales(grids, settings.output, by_tile=True))


def _s2(whole, side, settings):
  """Tiles of a normalised square at each scale."""
  tiles, grids = [], []
  for size in settings.sizes:
    matrix = bicubic(whole.shape[0], size)
    scaled = np.einsum('pi,qj,ijc->pqc', matrix, matrix, whole, optimize=True)
    count = size // settings.sizes[0]
    grids.append((count, count))
    tiles += [
      scaled[r * side : (r + 1) * side, c * side : (c + 1) * side]
      for r in range(count)
      for c in range(count)
    ]
  return Cut(np.stack(tiles), Scales(tuple(grids), settings.output))


def nearest(
  size: tuple[int, int], least: int, most: int, side: int
) -> tuple[int, int]:
  """Rows and columns of tiles whose ratio is nearest to a picture's.

  Of equal ones, the largest of which the picture fills more than half.

  Args:
    size: width and height of the picture.
    least: fewest tiles.
    most: most tiles.
    side: of a tile, in pixels.
  """
  width, height = size
  grids = [
    (columns, rows)
    for columns in range(1, most + 1)
    for rows in range(1, most // columns + 1)
    if columns * rows >= least
  ]
  if not grids:
    raise UserError(
      f'max_tiles is {most}; S2 needs {least} or more.',
      key='max_tiles',
      value=most,
      allowed=f'{least} or more',
    )
  best, difference = (1, 1), np.inf
  for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
    d = abs(width / height - columns / rows)
    is_large = width * height > 0.5 * side * side * columns * rows
    if d < difference or (d == difference and is_large):
      best, difference = (rows, columns), d
  return best


def bicubic(size: int, out: int) -> Float[np.ndarray, 'out size']:
  """Matrix of torch's bicubic interpolation (a = -0.75, no antialiasing)."""
  a = -0.75
  x = (np.arange(out) + 0.5) * size / out - 0.5
  base = np.floor(x).astype(int)
  matrix = np.zeros((out, size))
  for offset in range(-1, 3):
    d = np.abs(x - base - offset)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    weight = np.where(d <= 1, near, np.where(d < 2, far, 0))
    at = np.clip(base + offset, 0, size - 1)
    np.add.at(matrix, (np.arange(out), at), weight)
  return matrix.astype(np.float32)
