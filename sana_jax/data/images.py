"""Encoded images: their pixels, and their size without decoding them."""

from collections.abc import Callable
from concurrent import futures
import io
import os

import numpy as np
from PIL import Image as PilImage
from PIL import ImageOps

from sana_jax.typing import Image, Int

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')
# What Pillow and the standard library raise for damaged files.
DAMAGED = (OSError, ValueError, EOFError, SyntaxError,
           PilImage.DecompressionBombError, PilImage.DecompressionBombWarning)
HEADER_BYTES = 2**16  # Holds the size, but behind the largest EXIF blocks.
_ORIENTATION = 0x0112
_THREADS = 16  # Reading headers waits for the disk or the network.


def read_image(
  file: str | os.PathLike | bytes, size: int | None = None
) -> Image:
  """Pixels of an encoded image, `size` a side; transparent parts are white."""
  with _opened(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
    image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
      image = image.convert('RGBA')
      white = PilImage.new('RGBA', image.size, 'white')
      image = PilImage.alpha_composite(white, image)
    image = image.convert('RGB')
  if size is not None and image.size != (size, size):
    image = ImageOps.fit(image, (size, size), PilImage.Resampling.BICUBIC)
  return np.asarray(image)


def _opened(file):
  try:
    return PilImage.open(file)
  except PilImage.UnidentifiedImageError as error:
    raise ValueError('it is no image of a known format') from error


def header_size(data: bytes) -> tuple[int, int]:
  """(height, width) as shown, of an image or its first bytes; else (0, 0)."""
  try:
    with PilImage.open(io.BytesIO(data)) as image:
      width, height = image.size
      # A PNG may have EXIF behind its pixels; asking for it decodes them.
      turned = (image.format == 'JPEG' or 'exif' in image.info) and (
        image.getexif().get(_ORIENTATION, 1) >= 5)
  except DAMAGED:
    return 0, 0
  return (width, height) if turned else (height, width)


def size_of(read: Callable[[int | None], bytes]) -> tuple[int, int]:
  """header_size of what `read(end)` gives; of all of it if the start lacks."""
  try:
    size = header_size(read(HEADER_BYTES))
    return size if any(size) else header_size(read(None))
  except OSError:
    return 0, 0


def in_threads(function: Callable, items) -> list:
  """function of each item, in their order."""
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(function, items))


def header_sizes(
  read: Callable[[int, int | None], bytes], count: int
) -> Int[np.ndarray, 'n 2']:
  """size_of `read(index, end)` for `count` images; zeros for damaged ones."""
  sizes = in_threads(
    lambda index: size_of(lambda end: read(index, end)), range(count))
  return np.asarray(sizes, np.int32).reshape(count, 2)
