"""Masks of the loss: how much each pixel of a picture counts in training.

White counts fully and black not at all, as in kohya's scripts; the mean of a
latent's pixels is the weight of its squared error. The mean over a picture is
not divided by the mask's, so a small mask also gives a small gradient.

  files   `cat.mask.png`, red channel, beside `cat.jpg`, of the same size
  alpha   the opacity of the picture itself
"""

import numpy as np

from sana_jax.data import buckets
from sana_jax.data.images import read_image, read_opacity
from sana_jax.errors import UserError
from sana_jax.typing import Float, UInt8

KINDS = ('', 'files', 'alpha')
SUFFIX = '.mask.png'


def of_file(
  mask: bytes, image: bytes, name: str, size: int | None
) -> UInt8[np.ndarray, 'y x']:
  """Pixels of a mask's file, scaled and cropped as its image.

  Raises UserError for a mask of another size than the image, ValueError for a
  damaged one.

  Args:
    name: of the mask, for messages.
    size: see images.read_image.
  """
  (height, width), own = (read_opacity(x).shape for x in (image, mask))
  if (height, width) != own:
    raise UserError(
      f'The mask {name} has {own[1]} x {own[0]} pixels and its image '
      f'{width} x {height}; save it in the size of the image.',
      key='data.masks',
      value=own[::-1],
      allowed=(width, height),
    )
  return read_image(mask, size)[..., 0]


def of_alpha(image: bytes, size: int | None) -> UInt8[np.ndarray, 'y x']:
  """Opacity of an image; 255 everywhere if it has no transparency."""
  return read_opacity(image, size)


def cells(
  weights: UInt8[np.ndarray, 'y x'], size: tuple[int, int], side: int
) -> Float[np.ndarray, 'y2 x2']:
  """Weight of each latent of an image that is fitted to (height, width).

  Args:
    side: pixels of a latent's side.
  """
  fitted = buckets.fit(np.repeat(weights[..., None], 3, axis=2), size)[..., 0]
  height, width = size[0] // side, size[1] // side
  blocks = fitted.reshape(height, side, width, side).astype(np.float32)
  return blocks.mean((1, 3)) / 255
