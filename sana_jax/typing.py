"""Names of dimensions in shapes, and common types of signatures.

b batch, n image tokens, m text tokens, d width, h heads, k head dimension,
c channels, y x pixels or latent positions, *p positions along any axes: y x of
images, t y x of videos.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt8
import numpy as np

Params = Mapping[str, Any]  # A tree of arrays.
PyTree = Any
DType = Any
Keys = Key[Array, 'b']  # PRNG keys, one per example.
Grid = tuple[int, ...]  # Tokens along each axis, y x or t y x; static.
Image = UInt8[np.ndarray, 'y x 3']
Images = UInt8[np.ndarray, 'b y x 3']

__all__ = [
  'Array',
  'Bool',
  'DType',
  'Float',
  'Grid',
  'Image',
  'Images',
  'Int',
  'Keys',
  'Params',
  'PRNGKeyArray',
  'PyTree',
  'UInt8',
]
