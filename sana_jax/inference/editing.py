"""Changes of an image: the part that is drawn, and its way back.

The canvas is the image at the size of the call. The part of it that is drawn
is a box: all of it, or the surroundings of the mask (`padding_mask_crop`),
enlarged to the model's own size. A picture of the model is scaled to cover the
box and cropped (bins.py); so that each pixel returns to its place, the box is
padded by what is cropped, before it is scaled and encoded.

A latent is repainted if the mask has any of its pixels. Afterwards, pixels
without mask are those of the canvas, bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
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
  found, images = {}, given.get('image')
  if images is not None:
    read = input_image.each(_listed('image', images), input_image.pixels)
    if given.get('mask') is not None:
      found['mask'] = _masks(given['mask'], read)
    found['image'] = read if input_image.is_several(images) else read[0]
  return found


def _listed(key, value):
  if input_image.is_several(value) and not value:
    raise UserError(
      f'{key} has no picture; give one, or one for each prompt.', key=key
    )
  return list(value) if input_image.is_several(value) else [value]


def _masks(given, images):
  """Masks of images, of which one may be for all."""
  masks = _listed('mask', given)
  input_image.check_count('mask', masks, max(len(masks), len(images)))
  if len({image.shape[:2] for image in images}) == 1:
    size = images[0].shape[:2]
    found = input_image.each(
      masks, lambda mask: input_image.mask_pixels(mask, size)
    )
  else:
    masks *= len(images) if len(masks) == 1 else 1
    found = [
      input_image.mask_pixels(mask, image.shape[:2])
      for mask, image in zip(masks, images)
    ]
  return found if len(found) > 1 or input_image.is_several(given) else found[0]


def own_size(given: Mapping[str, Any]) -> dict[str, int]:
  """Default `height` and `width`, by the image; of one, in its proportions.

  Raises UserError for several images of different sizes, unless both are given.
  """
  image = given.get('image')
  if image is None:
    return {}
  images = image if input_image.is_several(image) else [image]
  found = dict.fromkeys(np.shape(x)[:2] for x in images)
  if len(found) > 1 and None in (given.get('height'), given.get('width')):
    shown = ' and '.join(f'{w} x {h}' for h, w in list(found)[:2])
    raise UserError(
      f'The images of the call have {shown} pixels; give images of one size, '
      'or height and width.',
      key='image',
      value=tuple(found),
      allowed='one size',
    )
  sides = dict(zip(('height', 'width'), next(iter(found))))
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


def of_prompts(pipe, call) -> list[Edit]:
  """The edit of a call of `Pipeline.draw`, or of each of its prompts.

  Raises UserError for parts that are drawn in different sizes.
  """
  given = [call.image, call.mask]
  if not any(map(input_image.is_several, given)):
    return [of_call(pipe, call)]
  count, lists = len(call.prompts), []
  for key, value in zip(('image', 'mask'), given):
    input_image.check_count(key, value, count)
    value = value if input_image.is_several(value) else [value]
    lists.append(list(value) * (count if len(value) == 1 else 1))
  pairs, kept = list(zip(*lists)), {}
  for image, mask in pairs:  # Many may be the same.
    if (id(image), id(mask)) not in kept:
      pair = call._replace(image=image, mask=mask)
      kept[id(image), id(mask)] = of_call(pipe, pair)
  strength = next(
    (x.strength for x in kept.values() if x.strength),
    kept[tuple(map(id, pairs[0]))].strength,
  )
  # An empty mask keeps its image at any strength.
  kept = {key: x._replace(strength=strength) for key, x in kept.items()}
  found = [kept[tuple(map(id, pair))] for pair in pairs]
  if len({edit.size for edit in found}) > 1:
    raise UserError(
      'The parts of the images that padding_mask_crop draws have different '
      'sizes; give each image in a call of its own.',
      key='padding_mask_crop',
      value=call.padding_mask_crop,
    )
  return found


def of_call(pipe, call) -> Edit:
  """The edit of a call with one image at most.

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


def start(
  pipe, edits: Sequence[Edit], parts: Tiles | Strips | None, num_images: int
) -> dict[str, Any]:
  """`image`, `mask` and `strength` of `Pipeline.denoise`, if there are any.

  Of several edits, each is that of `num_images` pictures.
  """
  if edits[0].image is None:
    return {}
  tiles = parts if isinstance(parts, Tiles) else None

  def encoded(edit):
    part = _placed(edit.image[edit.box], edit.size, Image.Resampling.LANCZOS)
    with pipe.on_mesh():
      return input_image.encoded(pipe.autoencoder, part, tiles)

  def joined(arrays):
    if len(edits) == 1:
      return jnp.asarray(arrays[0])
    return jnp.repeat(jnp.concatenate(arrays), num_images, axis=0)

  image, mask = joined(input_image.each(edits, encoded)), None
  if edits[0].mask is not None:
    mask = joined([latent_mask(edit, *image.shape[1:3]) for edit in edits])
  return {'image': image, 'mask': mask, 'strength': edits[0].strength}


def latent_mask(
  edit: Edit, rows: int, columns: int
) -> Bool[np.ndarray, '1 y x 1']:
  """Latents of which the mask has a pixel."""
  size = edit.size
  some = np.float32(edit.mask[edit.box] > 0)
  some = _placed(some, size, Image.Resampling.BILINEAR) > 0
  cells = some.reshape(rows, size[0] // rows, columns, size[1] // columns)
  return cells.any(axis=(1, 3))[None, :, :, None]


def finished(
  edits: Sequence[Edit],
  latents: Float[Array, 'b *p c'],
  decode: Callable[..., Float[Array, 'b y x 3']],
) -> Float[Array, 'b y2 x2 3']:
  """The pictures of latents, of which each edit has as many as the others.

  `decode` is a function of latents and a size, called for all of one size.
  """
  if len({shown(edit) for edit in edits}) == 1:
    images = jnp.split(decode(latents, shown(edits[0])), len(edits))
  else:
    chunks = jnp.split(latents, len(edits))
    images = [decode(x, shown(edit)) for x, edit in zip(chunks, edits)]
  return jnp.concatenate([composed(*pair) for pair in zip(edits, images)])


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
