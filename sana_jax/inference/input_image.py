"""Image that a picture starts from, and its mask: read, and encoded."""

from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from sana_jax import fields
from sana_jax.data.images import DAMAGED, displayed, read_image
from sana_jax.errors import UserError
from sana_jax.inference import tiling
from sana_jax.inference.tiling import Tiles
from sana_jax.models.autoencoders import base
from sana_jax.objectives.reconstruction import to_signed
from sana_jax.printable import counted, printable
from sana_jax.typing import Array, Bool, Float, UInt8
from sana_jax.weights.folder import Model

_IMAGE = (
  'a path, a PIL image, or an array [height, width, 3], uint8 or float in '
  '[0, 1]'
)
_KINDS = {
  'image': _IMAGE,
  'control_image': _IMAGE,
  'mask': 'a path, a PIL image, or an array [height, width], uint8, bool or '
  'float in [0, 1]',
}
# Of what is transparent: in a mask, nothing is drawn there.
_BEHIND = {'image': 'white', 'control_image': 'white', 'mask': 'black'}
_AN = {
  'image': 'an image',
  'control_image': 'a control image',
  'mask': 'a mask',
}
_KIND_OF = {'image': 'image', 'control_image': 'image', 'mask': 'mask'}
_MOST_BYTES = 2**28


def description(path: str | os.PathLike, key: str = 'image') -> dict[str, str]:
  """File and digest of an image, for metadata; accepted by `pixels`.

  Raises UserError if the file cannot be read.
  """
  return {'file': os.fspath(path), 'sha256': _digest(_read(path, key))}


def pixels(image: Any, key: str = 'image') -> UInt8[np.ndarray, 'y x 3']:
  """Pixels of an image as displayed.

  Args:
    image: a path, a PIL image, an array, or a `description`.
    key: 'image', 'control_image' or 'mask', for messages; gray values are
      allowed in a mask.

  Raises:
    UserError: if it is neither, or cannot be read.
  """
  if isinstance(image, Mapping):
    image = _described(image, key)
  elif isinstance(image, str | os.PathLike):
    image = _decoded(_read(image, key), image, key)
  elif isinstance(image, Image.Image):
    image = _displayed(image, key)
  return _checked(image, key)


def is_several(value: Any) -> bool:
  """Whether a value has a picture for each prompt."""
  return isinstance(value, list | tuple)


def each(values: Sequence[Any], read: Callable[[Any], Any]) -> list[Any]:
  """`read` of each picture; equal ones are read once, and are one object."""
  keys, found = [_identity(value) for value in values], {}
  for key, value in zip(keys, values):
    if key not in found:
      found[key] = read(value)
  return [found[key] for key in keys]


def check_count(key: str, value: Any, prompts: int) -> None:
  """Raises UserError unless there is one picture, or one for each prompt."""
  if is_several(value) and len(value) not in (1, prompts):
    raise UserError(
      f'{key} has {counted(len(value), _KIND_OF[key])} for '
      f'{counted(prompts, "prompt")}; give one, or one for each.',
      key=key,
      value=len(value),
      allowed=f'1, or {prompts}',
    )


def from_bytes(data: bytes, key: str) -> UInt8[np.ndarray, 'y x 3']:
  """Pixels of a file's bytes; ValueError if they are no image."""
  return read_image(data, behind=_BEHIND[key])


def mask_pixels(mask: Any, size: tuple[int, int]) -> Bool[np.ndarray, 'y x']:
  """Pixels where a mask is white, at least half as bright.

  Raises UserError if it has another size than its image.
  """
  found = pixels(mask, 'mask')
  if found.shape[:2] != size:
    shown = ' x '.join(map(str, reversed(found.shape[:2])))
    raise UserError(
      f'mask has {shown} pixels; its image has {size[1]} x {size[0]}.',
      key='mask',
      value=found.shape[:2],
      allowed=f'{size[1]} x {size[0]} pixels',
    )
  return np.asarray(Image.fromarray(found).convert('L')) >= 128


def fitted(
  image: UInt8[np.ndarray, '*s'], height: int, width: int
) -> UInt8[np.ndarray, '*t']:
  """The image scaled to cover the size, and cropped around its centre."""
  if image.shape[:2] == (height, width):
    return image
  return np.asarray(
    ImageOps.fit(
      Image.fromarray(image), (width, height), Image.Resampling.LANCZOS
    )
  )


def encoded(
  autoencoder: Model,
  image: UInt8[np.ndarray, 'y x 3'],
  tiles: Tiles | None = None,
) -> Float[Array, '1 y2 x2 c']:
  """The transformer's latents of an image, encoded in tiles if it is large.

  Raises UserError if the autoencoder was loaded without its encoder.
  """
  module, variables = autoencoder.module, autoencoder.variables
  if 'encoder' not in variables['params']:
    raise UserError(
      'image is given, and the pipeline has no encoder for it; load it with '
      'Pipeline.from_pretrained(..., encoder=True).',
      key='image',
      allowed='with encoder=True',
    )
  if tiles is None or max(image.shape[:2]) <= tiles.size:
    return _encoded(module, variables, image[None])
  signed = to_signed(jnp.asarray(image[None]))
  latents = tiling.encode(module, variables, signed, tiles)
  return base.scaled(module, latents).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _encoded(module, variables, images):
  latents = base.encode(module, variables, to_signed(images))
  return latents.astype(jnp.float32)


def _checked(image, key):
  """The image as an array [y x 3]; UserError for anything else."""
  try:
    image = np.asarray(image)
  except ValueError:  # A ragged list.
    image = np.asarray(None)
  given = image
  if key == 'mask' and image.ndim in (2, 3):
    if image.dtype == bool:
      image = image * np.uint8(255)
    if image.ndim == 2 or image.shape[2] == 1:
      image = np.repeat(image.reshape(*image.shape[:2], 1), 3, 2)
  if image.ndim == 3 and image.shape[2] == 3 and image.size:
    if image.dtype == np.uint8:
      return image
    if np.issubdtype(image.dtype, np.floating) and _in_range(image):
      return np.round(image * 255).astype(np.uint8)
  raise UserError(
    f'{key} is {fields.shown(given.dtype.name)} of the shape {given.shape}; '
    f'allowed is {_KINDS[key]}.',
    key=key,
    value=given.shape,
    allowed=_KINDS[key],
  )


def _in_range(image):
  return bool(np.all((image >= 0) & (image <= 1)))


def _identity(value):
  if isinstance(value, Mapping):
    return json.dumps(value, sort_keys=True, default=id)
  return os.fspath(value) if isinstance(value, os.PathLike | str) else id(value)


def _described(image, key):
  if set(image) != {'file', 'sha256'} or not isinstance(image['file'], str):
    raise UserError(
      f'{key} is {fields.shown(dict(image))}; allowed is {_KINDS[key]}.',
      key=key,
      allowed=_KINDS[key],
    )
  data = _read(image['file'], key)
  if _digest(data) != image['sha256']:
    raise UserError(
      f'{printable(image["file"], 200)} changed since the run began; start '
      'again with another --out.',
      key=key,
      value=image['file'],
    )
  return _decoded(data, image['file'], key)


def _read(path, key):
  path = pathlib.Path(path)
  try:
    if not path.is_file():
      raise ValueError('it is no file')
    if path.stat().st_size > _MOST_BYTES:
      raise ValueError('it is too large')
    return path.read_bytes()
  except (OSError, ValueError) as e:
    raise _unreadable(path, getattr(e, 'strerror', None) or e, key) from e


def _decoded(data, path, key):
  try:
    return from_bytes(data, key)
  except ValueError as e:
    raise _unreadable(path, e, key) from e


def _displayed(image, key):
  try:
    return np.asarray(displayed(image, _BEHIND[key]))
  except DAMAGED as e:
    raise UserError(
      f'{key} cannot be read ({printable(e, 200)}); allowed is {_KINDS[key]}.',
      key=key,
      value=image.mode,
      allowed=_KINDS[key],
    ) from e


def _unreadable(path, reason, key):
  return UserError(
    f'{printable(path, 200)} cannot be read as {_AN[key]} '
    f'({printable(reason, 200)}).',
    key=key,
    value=os.fspath(path),
  )


def _digest(data):
  return hashlib.sha256(data).hexdigest()
