"""A folder of images, each with a caption beside it.

`cat.jpg` has its caption in `cat.txt`, or in `cat.json` under the key
'caption' or 'prompt'. Images are scaled so that the shorter side fits and
cropped around the centre.
"""

import io
import json
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image as PilImage
from PIL import ImageOps

from sana_jax.data.records import BadRecord, BadRecords, MAX_BAD_FRACTION
from sana_jax.errors import UserError
from sana_jax.typing import Image

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')
# What Pillow and the standard library raise for damaged files.
DAMAGED = (OSError, ValueError, EOFError, SyntaxError,
           PilImage.DecompressionBombError, PilImage.DecompressionBombWarning)


class FolderSource:
  """Random access to the pairs of a folder and its subfolders, sorted by name.

  Images without a caption are left out here and counted in `bad`; a damaged
  file raises BadRecord when it is read.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    size: int,
    max_bad_fraction: float = MAX_BAD_FRACTION,
  ):
    self._root = pathlib.Path(path).expanduser()
    self._size = size
    names = _image_names(self._root)
    self.bad = BadRecords(len(names), max_bad_fraction)
    self._pairs = []
    for name in names:
      image = self._root / name
      beside = [image.with_suffix(suffix) for suffix in ('.txt', '.json')]
      caption = next((file for file in beside if file.is_file()), None)
      if caption is None:
        self.bad.add(BadRecord(
          name, f'no {beside[0].name} or {beside[1].name} beside it'))
      else:
        self._pairs.append((name, caption))
    if not self._pairs:
      raise UserError(f'{self._root} holds no image with a caption; give '
                      'each image a .txt or .json file of the same name.')

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name, caption = self._pairs[index]
    try:
      return {'image': read_image(self._root / name, self._size),
              'caption': _read_caption(caption), 'index': int(index)}
    except DAMAGED as error:
      raise BadRecord(name, _first_line(error)) from error


def read_image(
  file: str | os.PathLike | bytes, size: int | None = None
) -> Image:
  """Pixels of an encoded image, `size` a side; transparent parts are white."""
  with PilImage.open(io.BytesIO(file) if isinstance(file, bytes) else file
                     ) as opened:
    image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
      image = image.convert('RGBA')
      white = PilImage.new('RGBA', image.size, 'white')
      image = PilImage.alpha_composite(white, image)
    image = image.convert('RGB')
  if size is not None and image.size != (size, size):
    image = ImageOps.fit(image, (size, size), PilImage.Resampling.BICUBIC)
  return np.asarray(image)


def _image_names(root):
  if not root.is_dir():
    raise UserError(f'{root} is not a folder; set the data path to a folder '
                    'of images with captions.')
  names = sorted(
    file.relative_to(root).as_posix() for file in root.rglob('*')
    if file.suffix.lower() in SUFFIXES and not file.name.startswith('.'))
  if not names:
    raise UserError(f'{root} holds no images; put {", ".join(SUFFIXES)} files '
                    'in it or set the data path to another folder.')
  return names


def _read_caption(file):
  text = file.read_text(encoding='utf-8')
  if file.suffix == '.json':
    content = json.loads(text)
    if not isinstance(content, dict):
      raise ValueError(f'{file.name} holds no JSON object')
    text = content.get('caption', content.get('prompt'))
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'{file.name} holds no caption')
  return text.strip()


def _first_line(error):
  return (str(error) or type(error).__name__).splitlines()[0]
