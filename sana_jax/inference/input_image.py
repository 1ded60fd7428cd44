"""Image from which a picture starts: read, fitted to its size, encoded."""

from collections.abc import Mapping
import functools
import hashlib
import math
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
from sana_jax.models.autoencoders import base
from sana_jax.objectives.reconstruction import to_signed
from sana_jax.printable import printable
from sana_jax.typing import Array, Float, UInt8
from sana_jax.weights.folder import Model

_KINDS = (
  'a path, a PIL image, or an array [height, width, 3], uint8 or float in '
  '[0, 1]'
)
_MOST_BYTES = 2**28


def description(path: str | os.PathLike) -> dict[str, str]:
  """File and digest of an image, for metadata; accepted by `pixels`.

  Raises UserError if the file cannot be read.
  """
  return {'file': os.fspath(path), 'sha256': _digest(_read(path))}


def pixels(image: Any, height: int, width: int) -> UInt8[np.ndarray, 'y x 3']:
  """The image scaled to cover the size, and cropped around its centre.

  Args:
    image: a path, a PIL image, an array, or a `description`.

  Raises:
    UserError: if it is neither, or cannot be read.
  """
  image = loaded(image)
  if image.shape[:2] == (height, width):
    return image
  fitted = ImageOps.fit(
    Image.fromarray(image), (width, height), Image.Resampling.LANCZOS
  )
  return np.asarray(fitted)


def loaded(image: Any, name: str = 'image') -> UInt8[np.ndarray, 'y x 3']:
  """The image in its own size; see `pixels`. Errors have the key `name`."""
  try:
    if isinstance(image, Mapping):
      image = _described(image)
    elif isinstance(image, str | os.PathLike):
      image = _decoded(_read(image), image)
    elif isinstance(image, Image.Image):
      image = _displayed(image)
    return _checked(image)
  except UserError as e:
    if name == 'image':
      raise
    text = str(e)
    if text.startswith('image '):
      text = name + text.removeprefix('image')
    raise UserError(text, key=name, value=e.value, allowed=e.allowed) from e


def mixed(
  pipe,
  image: Any,
  noise: Float[Array, 'b y x c'],
  size: tuple[int, int],
  angle: float,
) -> Float[Array, 'b y x c']:
  """Latents of the image with noise, at an angle of the sampler scm."""
  with pipe.on_mesh():
    data = encoded(pipe.autoencoder, pixels(image, *size))
  return pipe.split(math.cos(angle) * data + math.sin(angle) * noise)


def encoded(
  autoencoder: Model, image: UInt8[np.ndarray, 'y x 3']
) -> Float[Array, '1 y2 x2 c']:
  """The transformer's latents of an image.

  Raises UserError if the autoencoder was loaded without its encoder.
  """
  if 'encoder' not in autoencoder.variables['params']:
    raise UserError(
      'image is given, and the pipeline has no encoder for it; load it with '
      'Pipeline.from_pretrained(..., encoder=True).',
      key='image',
      allowed='with encoder=True',
    )
  return _encoded(autoencoder.module, autoencoder.variables, image[None])


@functools.partial(jax.jit, static_argnums=0)
def _encoded(module, variables, images):
  latents = base.encode(module, variables, to_signed(images))
  return latents.astype(jnp.float32)


def _checked(image):
  """The image as an array [y x 3]; UserError for anything else."""
  try:
    image = np.asarray(image)
  except ValueError:  # A ragged list.
    image = np.asarray(None)
  if image.ndim == 3 and image.shape[2] == 3 and image.size:
    if image.dtype == np.uint8:
      return image
    if np.issubdtype(image.dtype, np.floating) and _in_range(image):
      return np.round(image * 255).astype(np.uint8)
  raise UserError(
    f'image is {fields.shown(image.dtype.name)} of the shape {image.shape}; '
    f'allowed is {_KINDS}.',
    key='image',
    value=image.shape,
    allowed=_KINDS,
  )


def _in_range(image):
  return bool(np.all((image >= 0) & (image <= 1)))


def _described(image):
  if set(image) != {'file', 'sha256'} or not isinstance(image['file'], str):
    raise UserError(
      f'image is {fields.shown(dict(image))}; allowed is {_KINDS}.',
      key='image',
      allowed=_KINDS,
    )
  data = _read(image['file'])
  if _digest(data) != image['sha256']:
    raise UserError(
      f'{printable(image["file"], 200)} changed since the run began; start '
      'again with another --out.',
      key='image',
      value=image['file'],
    )
  return _decoded(data, image['file'])


def _read(path):
  path = pathlib.Path(path)
  try:
    if not path.is_file():
      raise ValueError('it is no file')
    if path.stat().st_size > _MOST_BYTES:
      raise ValueError('it is too large')
    return path.read_bytes()
  except (OSError, ValueError) as e:
    raise _unreadable(path, getattr(e, 'strerror', None) or e) from e


def _decoded(data, path):
  try:
    return read_image(data)
  except ValueError as e:
    raise _unreadable(path, e) from e


def _displayed(image):
  try:
    return np.asarray(displayed(image))
  except DAMAGED as e:
    raise UserError(
      f'image cannot be read ({printable(e, 200)}); allowed is {_KINDS}.',
      key='image',
      value=image.mode,
      allowed=_KINDS,
    ) from e


def _unreadable(path, reason):
  return UserError(
    f'{printable(path, 200)} cannot be read as an image '
    f'({printable(reason, 200)}).',
    key='image',
    value=os.fspath(path),
  )


def _digest(data):
  return hashlib.sha256(data).hexdigest()
