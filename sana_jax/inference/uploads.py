"""Images in requests of the demo: base64 text, checked and decoded."""

import base64
import binascii
import hashlib
from typing import Any

import numpy as np

from sana_jax.data.images import header_size
from sana_jax.errors import UserError
from sana_jax.inference import input_image
from sana_jax.printable import printable
from sana_jax.typing import UInt8

_ALLOWED = 'a PNG, JPEG or WebP file as base64, or a data URL of one'


def decoded(
  key: str, text: Any, size_px: int
) -> UInt8[np.ndarray, 'y x 3'] | None:
  """Pixels of an image, None for an empty text.

  Args:
    key: 'image' or 'mask'.
    text: base64, maybe after `data:image/png;base64,`.
    size_px: largest side.

  Raises:
    UserError: if it is no image, or too large.
  """
  if text in ('', None):
    return None
  data = _bytes(key, text)
  height, width = header_size(data)
  if max(height, width) > size_px:
    raise UserError(
      f'{key} has {width} x {height} pixels; a side may have {size_px}.',
      key=key,
      value=(height, width),
      allowed=f'at most {size_px} pixels a side',
    )
  try:
    return input_image.from_bytes(data, key)
  except ValueError as e:
    raise _refused(key, printable(e, 100)) from e


def digest(text: str) -> str:
  """SHA-256 of the file in the text."""
  return hashlib.sha256(_bytes('image', text)).hexdigest()


def _bytes(key, text):
  if not isinstance(text, str):
    raise _refused(key, 'it is no text')
  start, comma, _ = text[:100].partition(',')
  if comma and start.startswith('data:'):
    text = text[len(start) + 1 :]
  try:
    return base64.b64decode(text, validate=True)
  except (binascii.Error, ValueError) as e:
    raise _refused(key, 'it is no base64') from e


def _refused(key, reason):
  return UserError(
    f'{key} cannot be read ({reason}); give {_ALLOWED}.',
    key=key,
    allowed=_ALLOWED,
  )
