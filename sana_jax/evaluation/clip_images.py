"""Images as CLIP's vision tower takes them, by transformers' processor.

The shorter side is resized by PIL's bicubic filter, which is antialiased, the
centre is cropped, and channels are normalised. An odd rest is cut as in
transformers; OpenAI's code may take the next pixel.
"""

import dataclasses
import pathlib

import numpy as np
from PIL import Image as PIL_Image

from sana_jax import fields, files
from sana_jax.errors import UserError
from sana_jax.typing import Float, Images

_MOST_BYTES = 2**20
_NAMES = ('preprocessor_config.json', 'processor_config.json')
_SIDE = fields.integer(1, 2048)
_SIZE = fields.either(
  _SIDE,
  fields.Field(
    'an object with shortest_edge, or height and width',
    lambda value: (
      isinstance(value, dict)
      and all(type(x) is int and 0 < x <= 2048 for x in value.values())
      and set(value) in ({'shortest_edge'}, {'height', 'width'})
    ),
  ),
)
_ON = fields.Field('true', lambda value: value is True)
_ALLOWED = {
  'size': _SIZE,
  'crop_size': _SIZE,
  'image_mean': fields.list_of(fields.number(-1, 2), 3, 3),
  'image_std': fields.list_of(fields.number(1e-3, 10), 3, 3),
  'resample': fields.Field(
    '3, the bicubic filter', lambda value: value in (3, 'bicubic')
  ),
  'rescale_factor': fields.number(0.99 / 255, 1.01 / 255),
  'do_resize': _ON,
  'do_center_crop': _ON,
  'do_rescale': _ON,
  'do_normalize': _ON,
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """Pixels of the shorter side and of the crop, and statistics of channels."""

  side: int = 224
  crop: int = 224
  mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
  std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

  def __call__(
    self, images: Images
  ) -> Float[np.ndarray, 'b {self.crop} {self.crop} 3']:
    """Normalised images."""
    cropped = np.stack([self._cropped(image) for image in images])
    unit = cropped.astype(np.float32) / np.float32(255)
    return (unit - np.float32(self.mean)) / np.float32(self.std)

  def _cropped(self, image):
    height, width = image.shape[:2]
    short = min(height, width)
    size = [int(self.side * x / short) for x in (width, height)]
    resized = PIL_Image.fromarray(image).resize(
      size, PIL_Image.Resampling.BICUBIC
    )
    left, top = ((x - self.crop) // 2 for x in size)
    box = (left, top, left + self.crop, top + self.crop)
    return np.asarray(resized.crop(box))


def read(folder: pathlib.Path, image_size: int) -> Preprocessing:
  """Preprocessing of a model's folder, or OpenAI's if it has none.

  Raises:
    UserError: the file is damaged, or its images are not those of the model.
  """
  for name in _NAMES:
    try:
      config = files.read_json(folder / name, most=_MOST_BYTES)
    except FileNotFoundError:
      continue
    # A file for images and texts has them as an entry.
    found = config.get('image_processor', config)
    if not isinstance(found, dict):
      raise UserError(
        f'{folder / name}: image_processor is {fields.shown(found)}, allowed '
        'is an object.',
        key='image_processor',
        value=found,
        allowed=(dict,),
      )
    return _parsed(found, image_size, folder / name)
  return Preprocessing(image_size, image_size)


def _parsed(config, image_size, where):
  fields.check(str(where), config, _ALLOWED)
  crop = config.get('crop_size', image_size)
  side = config.get('size', image_size)
  crop = {crop} if isinstance(crop, int) else {*crop.values()}
  side = side if isinstance(side, int) else side.get('shortest_edge')
  if crop != {image_size} or side is None or side < image_size:
    raise UserError(
      f'{where}: size is {fields.shown(config.get("size"))} and crop_size '
      f'{fields.shown(config.get("crop_size"))}; the model takes squares of '
      f'{image_size} pixels from images whose shorter side is at least that.',
      key='crop_size',
      value=config.get('crop_size'),
      allowed=f'{image_size} pixels',
    )
  other = Preprocessing()
  return Preprocessing(
    side,
    image_size,
    tuple(config.get('image_mean', other.mean)),
    tuple(config.get('image_std', other.std)),
  )
