"""Contact sheets, and picture files with their settings as metadata."""

from collections.abc import Mapping, Sequence
import io
import json
import math
import os
import pathlib
import stat
from typing import BinaryIO
import warnings

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from sana_jax import files
from sana_jax.inference import parameters

_MARGIN = 6  # Pixels around each tile.
_QUALITY = 95  # Of JPEG and WebP.
_DESCRIPTION = 0x010E  # Exif's ImageDescription.
_SMALLEST = 128  # Side to which smaller images are enlarged.
_LABEL = 300  # Characters of a label; three lines hold fewer.
_FORMATS = {'.png': 'png', '.jpg': 'jpeg', '.webp': 'webp'}
_ENDS = {
  '.png': (b'\x89PNG\r\n\x1a\n', b'\0\0\0\0IEND\xaeB`\x82'),
  '.jpg': (b'\xff\xd8', b'\xff\xd9'),
}


def contact_sheet(
  images: Sequence[np.ndarray],
  labels: Sequence[str],
  columns: int | None = None,
  wrong: Sequence[bool] | None = None,
) -> Image.Image:
  """Images in a grid, each above its label; `wrong` ones are framed.

  Cells have the size of the first image; others are scaled to fit.
  """
  columns = columns or math.ceil(math.sqrt(len(images)))
  rows = math.ceil(len(images) / columns)
  scale = max(1, math.ceil(_SMALLEST / min(images[0].shape[:2])))
  height, width = (side * scale for side in images[0].shape[:2])
  font = ImageFont.load_default(max(11, width // 14))
  texts = [wrap(label, font, width) for label in labels]
  line = math.ceil(font.size * 1.3)
  below = line * max(len(t) for t in texts)
  cell = width + 2 * _MARGIN, height + below + 2 * _MARGIN
  sheet = Image.new('RGB', (columns * cell[0], rows * cell[1]), 'white')
  draw = ImageDraw.Draw(sheet)
  for i, (image, lines) in enumerate(zip(images, texts)):
    x = i % columns * cell[0] + _MARGIN
    y = i // columns * cell[1] + _MARGIN
    tile = Image.fromarray(np.asarray(image))
    fit = min(width / tile.width, height / tile.height)
    tile = tile.resize((round(tile.width * fit), round(tile.height * fit)), 0)
    sheet.paste(tile, (x, y))
    if wrong is not None and wrong[i]:
      draw.rectangle(
        (x - 3, y - 3, x + width + 2, y + height + 2), None, 'red', 3
      )
    for j, text in enumerate(lines):
      draw.text((x, y + height + j * line), text, 'black', font)
  return sheet


def wrap(text: str, font, width: int, most: int = 3) -> list[str]:
  """Lines no wider than `width` pixels, at most `most` of them."""
  lines = ['']
  for word in text[:_LABEL].split():
    longer = f'{lines[-1]} {word}'.strip()
    if font.getlength(longer) <= width or not lines[-1]:
      lines[-1] = longer
    else:
      lines.append(word)
  if len(lines) > most:
    lines = [*lines[: most - 1], lines[most - 1] + ' …']
  return lines


def write_png(
  path: os.PathLike,
  image: np.ndarray | Image.Image,
  metadata: Mapping[str, object] | None = None,
) -> None:
  """Writes a picture atomically, with `metadata` as text chunks."""
  files.write_bytes(path, encode(image, '.png', metadata))


def encode(
  image: np.ndarray | Image.Image,
  suffix: str,
  metadata: Mapping[str, object] | None = None,
) -> bytes:
  """Bytes of a .png, .jpg or .webp file with metadata.

  PNG has a text chunk per key, and one that other programs read (see
  parameters.py) if the picture was sampled; the others have JSON in Exif's
  ImageDescription.
  """
  if not isinstance(image, Image.Image):
    image = Image.fromarray(image)
  out = io.BytesIO()
  if suffix == '.png':
    info = PngInfo()
    for key, value in (metadata or {}).items():
      info.add_itxt(key, str(value))
    if {'prompt', 'steps'} <= set(metadata or ()):
      info.add_text(parameters.KEY, parameters.text(metadata))
    image.save(out, 'png', pnginfo=info)
  else:
    exif = Image.Exif()
    if metadata:
      exif[_DESCRIPTION] = json.dumps(dict(metadata))
    image.save(out, _FORMATS[suffix], quality=_QUALITY, exif=exif)
  return out.getvalue()


def is_whole(path: pathlib.Path) -> bool:
  """Whether it is a regular file with the start and end of its format."""
  try:
    if not stat.S_ISREG(path.lstat().st_mode):  # Links may point anywhere.
      return False
    with files.open_regular(path) as file:
      return has_ends(file, 0, file.seek(0, os.SEEK_END), path.suffix)
  except OSError:
    return False


def has_ends(file: BinaryIO, start: int, size: int, suffix: str) -> bool:
  """Whether that part of a file has the start and end of a picture format.

  Reads 24 bytes, so that a million pictures can be checked.
  """
  file.seek(start)
  head = file.read(12)
  file.seek(start + max(0, size - 12))
  tail = file.read(12)
  if suffix == '.webp':
    return (head[:4], head[8:]) == (b'RIFF', b'WEBP') and size == (
      8 + int.from_bytes(head[4:8], 'little')
    )
  first, last = _ENDS.get(suffix, (b'no picture', b''))
  return len(head) == 12 and head.startswith(first) and tail.endswith(last)


def decode(data: bytes, suffix: str) -> Image.Image:
  """The picture in a file's bytes, in the format of the suffix.

  Raises:
    ValueError: it is damaged, of another format, or above Pillow's size limit.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      image = Image.open(io.BytesIO(data), formats=[_FORMATS[suffix].upper()])
      image.load()
    return image
  except Exception as e:  # Pillow's parsers raise errors of any type.
    raise ValueError(str(e) or type(e).__name__) from e
