"""Encoded images: their pixels, and their size without decoding them."""

from collections.abc import Callable
from concurrent import futures
import io
import os
import pathlib

import numpy as np
from PIL import Image as PilImage
from PIL import ImageOps

from sana_jax.data.remembered import TROUBLE
from sana_jax.typing import Image

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')
# What Pillow and the standard library raise for damaged files.
DAMAGED = (
  OSError,
  ValueError,
  EOFError,
  SyntaxError,
  RecursionError,
  OverflowError,
)
# Others hand bytes to further programs: EPS to Ghostscript, for one.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'GIF', 'BMP')
# A small file may claim any size; above this, Pillow warns.
MOST_PIXELS = PilImage.MAX_IMAGE_PIXELS
HEADER_BYTES = 2**16  # Holds the size, but behind the largest EXIF blocks.
_ORIENTATION = 0x0112
_FLIP = PilImage.Transpose
_TURNS = {
  2: _FLIP.FLIP_LEFT_RIGHT,
  3: _FLIP.ROTATE_180,
  4: _FLIP.FLIP_TOP_BOTTOM,
  5: _FLIP.TRANSPOSE,
  6: _FLIP.ROTATE_270,
  7: _FLIP.TRANSVERSE,
  8: _FLIP.ROTATE_90,
}
_THREADS = 16  # Reading headers waits for the disk or the network.


def read_image(
  file: str | os.PathLike | bytes, size: int | None = None
) -> Image:
  """Pixels of an encoded image, `size` a side; transparent parts are white.

  Raises ValueError for a damaged one.
  """
  data = file if isinstance(file, bytes) else pathlib.Path(file).read_bytes()
  try:
    return _decoded(data, size)
  except PilImage.UnidentifiedImageError as error:
    raise ValueError('it is no image of a known format') from error
  # Decoders trip over damaged bytes in any way.
  except Exception as error:  # noqa: BLE001
    raise ValueError(str(error) or type(error).__name__) from error


def _decoded(data, size):
  with _opened(data) as image:
    if image.width * image.height > MOST_PIXELS:
      raise ValueError(
        f'it has {image.width:,} x {image.height:,} pixels; at '
        f'most {MOST_PIXELS:,} are read'
      )
    image.load()
    # ImageOps.exif_transpose writes the EXIF anew, which may be damaged.
    turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    if turn is not None:
      image = image.transpose(turn)
    if image.has_transparency_data:
      image = image.convert('RGBA')
      white = PilImage.new('RGBA', image.size, 'white')
      image = PilImage.alpha_composite(white, image)
    image = image.convert('RGB')
  if size is not None and image.size != (size, size):
    image = ImageOps.fit(image, (size, size), PilImage.Resampling.BICUBIC)
  return np.asarray(image)


def _opened(data):
  return PilImage.open(io.BytesIO(data), formats=FORMATS)


def header_size(data: bytes) -> tuple[int, int]:
  """(height, width) as shown, of an image or its first bytes; else (0, 0)."""
  try:
    with _opened(data) as image:
      width, height = image.size
      # A PNG may have EXIF behind its pixels; asking for it decodes them.
      turned = (image.format == 'JPEG' or 'exif' in image.info) and (
        image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
      )
  # Decoders trip over damaged bytes in any way.
  except Exception:  # noqa: BLE001
    return 0, 0
  return (width, height) if turned else (height, width)


def size_of(read: Callable[[int | None], bytes]) -> tuple[int, int]:
  """header_size of what `read(end)` gives; of all of it if the start lacks."""
  size = header_size(read(HEADER_BYTES))
  return size if any(size) else header_size(read(None))


def size_today(
  read: Callable[[int | None], bytes],
) -> tuple[tuple[int, int], bool]:
  """(size_of, whether it is unknown because reading failed)."""
  try:
    return size_of(read), False
  except OSError:
    return (0, 0), True


def in_threads(function: Callable, items) -> list:
  """function of each item, in their order."""
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(function, items))


def header_sizes(
  read: Callable[[int, int | None], bytes], count: int
) -> dict[str, np.ndarray]:
  """'sizes' [n 2] of `count` images by `read(index, end)`; 0 for damaged ones.

  TROUBLE counts those that could not be read.
  """
  found = in_threads(
    lambda index: size_today(lambda end: read(index, end)), range(count)
  )
  return {
    'sizes': np.asarray([size for size, _ in found], np.int32).reshape(
      count, 2
    ),
    TROUBLE: np.sum([failed for _, failed in found], dtype=int),
  }
