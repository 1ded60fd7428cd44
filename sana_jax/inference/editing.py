"""Changes of an image: the part that is drawn, and its way back.

The canvas is the image at the size of the call. The part of it that is drawn
is a box: all of it, or the surroundings of the mask (`padding_mask_crop`),
enlarged to the model's own size. A picture of the model is scaled to cover the
box and cropped (bins.py); so that each pixel returns to its place, the box is
padded by what is cropped, before it is scaled and encoded.

A latent is repainted if the mask has any of its pixels. Afterwards, pixels
without mask are those of the canvas, bit for bit.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import logging
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageFilter

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.inference import bins, input_image, sizes
from sana_jax.inference.strip_decoding import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.typing import Array, Bool, Float, UInt8

STRENGTH = 0.6  # Of an image that comes without; diffusers' default.
ALL_NEW = 1.0  # Of a mask, whose part of the image is repainted.
FIELDS = {
  'mask_blur': fields.number(0, 1000),
  'padding_mask_crop': fields.either(fields.NULL, fields.integer(0, 2**15)),
}
_STRENGTH = {'strength': fields.number(0, 1)}
_AN = {'image': 'an image', 'mask': 'a mask'}
_NEEDS = {
  'mask': 'image',
  'strength': 'image',
  'mask_blur': 'mask',
  'padding_mask_crop': 'mask',
}


class Edit(NamedTuple):
  """The drawn part of a canvas, and the image it starts from.

  Attributes:
    box: rows and columns that are drawn.
    size: height and width at which they are drawn.
    image: the canvas; None for a blank one.
    mask: 1 where the picture is new, 0 where it is the image; None for all new.
    strength: None if the call has the times of its steps.
  """

  box: tuple[slice, slice]
  size: tuple[int, int]
  image: UInt8[np.ndarray, 'y x 3'] | None = None
  mask: Float[np.ndarray, 'y x'] | None = None
  strength: float | None = None


def opened(given: Mapping[str, Any]) -> dict[str, Any]:
  """`image` and `mask` of a call, read, where they are given.

  Raises UserError if one is invalid, or an argument lacks another.
  """
  for key, needed in _NEEDS.items():
    value = given.get(key)
    blank = value is None or key == 'mask_blur' and value == 0
    if not blank and given.get(needed) is None:
      raise UserError(
        f'{key} is given, which needs {_AN[needed]}.',
        key=key,
        allowed=f'with {needed}',
      )
  found = {}
  if given.get('image') is not None:
    found['image'] = input_image.pixels(given['image'])
    if given.get('mask') is not None:
      size = found['image'].shape[:2]
      found['mask'] = input_image.mask_pixels(given['mask'], size)
  return found


def own_size(given: Mapping[str, Any]) -> dict[str, int]:
  """Default `height` and `width`, by the image; of one, in its proportions."""
  if given.get('image') is None:
    return {}
  sides = dict(zip(('height', 'width'), np.shape(given['image'])))
  for side, other in (('height', 'width'), ('width', 'height')):
    value = fields.plain(given.get(other))
    if given.get(side) is None and type(value) is int and value > 0:
      sides[side] = max(1, round(sides[side] * value / sides[other]))
  return sides


def strength_of(given: Mapping[str, Any]) -> float | None:
  """The strength of a call with an image, by default its kind's.

  Raises UserError if it is outside of 0 to 1.
  """
  value = fields.plain(given.get('strength'))
  if value is None:
    if given.get('image') is None:
      return None
    return STRENGTH if given.get('mask') is None else ALL_NEW
  fields.check('The call', {'strength': value}, _STRENGTH)
  return float(value)


def of_call(pipe, call) -> Edit:
  """The edit of a call of `Pipeline.draw`.

  Logs a warning if the mask is empty: the picture is the image.
  """
  size = call.height, call.width
  box, strength = (slice(0, size[0]), slice(0, size[1])), call.strength
  if call.image is None:
    return Edit(box, pipe.trained_size(*size, call.use_resolution_binning))
  image = input_image.fitted(call.image, *size)
  mask = call.mask
  if mask is not None:
    mask = input_image.fitted(mask * np.uint8(255), *size) >= 128
    mask = blurred(mask, call.mask_blur)
  if mask is not None and not mask.any():
    logging.warning('The mask is empty: the picture is the image.')
    strength = 0.0
  elif call.padding_mask_crop is not None:
    box = _around(mask, call.padding_mask_crop)
    made = pipe.size_of_ratio(_length(box[1]) / _length(box[0]))
    return Edit(_grown(box, made, size), made, image, mask, strength)
  made = sizes.of_image(pipe, *size, call.use_resolution_binning)
  return Edit(box, made, image, mask, strength)


def blurred(
  mask: Bool[np.ndarray, 'y x'], radius: float | int
) -> Float[np.ndarray, 'y x']:
  """The mask with soft edges: Pillow's Gaussian, as in diffusers' blur.

  Its support ends within 3 radii + 3 pixels of the mask.
  """
  image = Image.fromarray(mask * np.uint8(255))
  if radius:
    image = image.filter(ImageFilter.GaussianBlur(radius))
  return np.asarray(image, np.float32) / 255


def start(pipe, edit: Edit, parts: Tiles | Strips | None) -> dict[str, Any]:
  """`image`, `mask` and `strength` of `Pipeline.denoise`, if there are any."""
  if edit.image is None:
    return {}
  tiles = parts if isinstance(parts, Tiles) else None
  part = _placed(edit.image[edit.box], edit.size, Image.Resampling.LANCZOS)
  with pipe.on_mesh():
    image = input_image.encoded(pipe.autoencoder, part, tiles)
  mask = None
  if edit.mask is not None:
    mask = jnp.asarray(latent_mask(edit, *image.shape[1:3]))
  return {'image': image, 'mask': mask, 'strength': edit.strength}


def latent_mask(
  edit: Edit, rows: int, columns: int
) -> Bool[np.ndarray, '1 y x 1']:
  """Latents of which the mask has a pixel."""
  size = edit.size
  some = np.float32(edit.mask[edit.box] > 0)
  some = _placed(some, size, Image.Resampling.BILINEAR) > 0
  cells = some.reshape(rows, size[0] // rows, columns, size[1] // columns)
  return cells.any(axis=(1, 3))[None, :, :, None]


def composed(
  edit: Edit, images: Float[Array, 'b y x 3']
) -> Float[Array, 'b y2 x2 3']:
  """The canvas with the drawn images, of the box's size, where the mask is."""
  if edit.mask is None:
    return images
  canvas = jnp.asarray(edit.image, jnp.float32) / 255
  mask = edit.mask[edit.box][..., None]
  part = canvas[edit.box]
  part = jnp.where(mask > 0, mask * images + (1 - mask) * part, part)
  canvas = jnp.broadcast_to(canvas, (len(images), *canvas.shape))
  return canvas.at[:, *edit.box].set(part)


def shown(edit: Edit) -> tuple[int, int]:
  """Height and width of the box in pixels of the canvas."""
  return _length(edit.box[0]), _length(edit.box[1])


def _around(mask, padding):
  """The smallest box around a mask with a margin, inside the canvas."""
  found = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
  return tuple(
    slice(max(0, x[0] - padding), min(n, x[-1] + 1 + padding))
    for x, n in zip(found, mask.shape)
  )


def _grown(box, made, size):
  """The box grown to the ratio of `made`, as far as the canvas has room."""
  wanted = bins.covering(made, (_length(box[0]), _length(box[1])))
  return tuple(_longer(*x) for x in zip(box, wanted, size))


def _longer(side, length, most):
  length = min(length, most)
  start = side.start - (length - _length(side)) // 2
  start = min(max(start, 0), most - length)
  return slice(int(start), int(start + length))


def _placed(part, size, resampling):
  """The part at the size at which it is drawn, with what is cropped later."""
  wanted = bins.covering(size, part.shape[:2])
  before = [(n - m) // 2 for n, m in zip(wanted, part.shape)]
  edges = [(b, n - m - b) for b, n, m in zip(before, wanted, part.shape)]
  part = np.pad(part, [*edges, (0, 0)][: part.ndim], 'edge')
  if part.shape[:2] == size:
    return part
  return np.asarray(Image.fromarray(part).resize(size[::-1], resampling))


def _length(side):
  return int(side.stop - side.start)
