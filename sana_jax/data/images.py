"""Encoded images: decoding, and their size from headers."""

from collections.abc import Callable
from concurrent import futures
import io
import os
import pathlib

import numpy as np
from PIL import features, ImageOps
from PIL import Image as PilImage

from sana_jax.data.array_cache import FAILED_READS
from sana_jax.typing import Image, UInt8

# Suffixes by format. Other formats call external programs, such as Ghostscript
# for EPS.
_SUFFIXES = {
  'PNG': ('.png',),
  'JPEG': ('.jpg', '.jpeg', '.jfif'),
  'WEBP': ('.webp',),
  'GIF': ('.gif',),
  'BMP': ('.bmp',),
  'TIFF': ('.tif', '.tiff'),
  'AVIF': ('.avif',),
}
# A build of Pillow may lack a codec.
FORMATS = tuple(
  name
  for name in _SUFFIXES
  if name not in ('WEBP', 'AVIF') or features.check(name.lower())
)
SUFFIXES = tuple(suffix for name in FORMATS for suffix in _SUFFIXES[name])
# Exceptions of Pillow and the standard library for damaged files.
DAMAGED = (
  OSError,
  ValueError,
  EOFError,
  SyntaxError,
  RecursionError,
  OverflowError,
)
# A small file may declare any size; above this, Pillow warns.
MOST_PIXELS = PilImage.MAX_IMAGE_PIXELS
HEADER_BYTES = 2**16  # Contains the size, except after very large EXIF blocks.
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
_THREADS = 16  # Reading headers is bound by the disk or the network.


def read_image(
  file: str | os.PathLike | bytes, size: int | None = None
) -> Image:
  """Pixels of an encoded image, resized to `size`; transparency becomes white.

  Raises ValueError for a damaged image.
  """
  data = file if isinstance(file, bytes) else pathlib.Path(file).read_bytes()
  return _read(data, size, displayed)


def read_opacity(
  data: bytes, size: int | None = None
) -> UInt8[np.ndarray, 'y x']:
  """Alpha channel of an encoded image, resized as by `read_image`.

  It is 255 without transparency. Raises ValueError for a damaged image.
  """
  return _read(data, size, opacity)


def _read(data, size, view):
  try:
    return _decoded(data, size, view)
  except PilImage.UnidentifiedImageError as error:
    raise ValueError('it is not an image of a supported format') from error
  # Decoders raise any exception for damaged bytes.
  except Exception as error:  # noqa: BLE001
    raise ValueError(str(error) or type(error).__name__) from error


def _decoded(data, size, view):
  with _opened(data) as image:
    if image.width * image.height > MOST_PIXELS:
      raise ValueError(
        f'it has {image.width:,} x {image.height:,} pixels; at '
        f'most {MOST_PIXELS:,} are read'
      )
    image = view(image)
  if size is not None and image.size != (size, size):
    image = ImageOps.fit(image, (size, size), PilImage.Resampling.BICUBIC)
  return np.asarray(image)


def displayed(image: PilImage.Image) -> PilImage.Image:
  """RGB as displayed: turned by its EXIF, 8 bits, white for transparency.

  Raises ValueError for values of an unknown range.
  """
  return _rgb(_upright(image))


def opacity(image: PilImage.Image) -> PilImage.Image:
  """Alpha channel of an image as displayed, with 8 bits."""
  image = _upright(image)
  if not image.has_transparency_data:
    return PilImage.new('L', image.size, 255)
  image = image.convert('LA') if image.mode == 'La' else image
  return image.convert('RGBA').getchannel('A')


def _upright(image):
  """The image with 8 bits a channel, turned by its EXIF."""
  image.load()
  # ImageOps.exif_transpose re-encodes the EXIF, which may be damaged.
  turn = _TURNS.get(image.getexif().get(_ORIENTATION))
  return _eight_bits(image if turn is None else image.transpose(turn))


def _eight_bits(image):
  """The image with 8 bits a channel; others are mapped by their range."""
  if image.mode.startswith('I'):  # 16 bits, also in 32.
    values, most = np.asarray(image), 2**16 - 1
  elif image.mode == 'F':
    values, most = np.asarray(image), 1.0
  else:
    return image
  if not (values.min() >= 0 and values.max() <= most):  # Also for NaN.
    raise ValueError(
      f'its values are {values.min():g} to {values.max():g}; whole numbers '
      'from 0 to 65535 and fractions from 0 to 1 are read'
    )
  out = PilImage.fromarray(np.rint(values * (255 / most)).astype(np.uint8))
  transparent = image.info.get('transparency')
  if isinstance(transparent, int):  # A gray value of a PNG.
    out.putalpha(PilImage.fromarray(values != transparent).convert('L'))
  return out


def _rgb(image):
  """RGB in which transparency is white."""
  if image.mode == 'La':  # Premultiplied, which converts to LA only.
    image = image.convert('LA')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = PilImage.new('RGBA', image.size, 'white')
    image = PilImage.alpha_composite(white, image)
  return image.convert('RGB')


def _opened(data):
  return PilImage.open(io.BytesIO(data), formats=FORMATS)


def header_size(data: bytes) -> tuple[int, int]:
  """(height, width) as displayed, from the first bytes; (0, 0) if unknown."""
  try:
    with _opened(data) as image:
      width, height = image.size
      # A PNG may have EXIF after its pixels; reading it decodes them. Pillow
      # turns a TIFF itself.
      turned = (image.format == 'JPEG' or 'exif' in image.info) and (
        image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
      )
  # Decoders raise any exception for damaged bytes.
  except Exception:  # noqa: BLE001
    return 0, 0
  return (width, height) if turned else (height, width)


def size_of(read: Callable[[int | None], bytes]) -> tuple[int, int]:
  """header_size of the first bytes, or of all if those do not suffice."""
  size = header_size(read(HEADER_BYTES))
  return size if any(size) else header_size(read(None))


def try_size_of(
  read: Callable[[int | None], bytes],
) -> tuple[tuple[int, int], bool]:
  """(size_of, whether reading failed)."""
  try:
    return size_of(read), False
  except OSError:
    return (0, 0), True
  except ValueError:  # There is no image.
    return (0, 0), False


def in_threads(function: Callable, items) -> list:
  """Maps the function over the items in threads, in order."""
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(function, items))


def header_sizes(
  read: Callable[[int, int | None], bytes], count: int
) -> dict[str, np.ndarray]:
  """'sizes' [n 2] of `count` images by `read(index, end)`; 0 for damaged ones.

  FAILED_READS counts images that could not be read.
  """
  found = in_threads(
    lambda index: try_size_of(lambda end: read(index, end)), range(count)
  )
  return {
    'sizes': np.asarray([size for size, _ in found], np.int32).reshape(
      count, 2
    ),
    FAILED_READS: np.sum([failed for _, failed in found], dtype=int),
  }
