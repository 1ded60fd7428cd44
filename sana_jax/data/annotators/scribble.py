"""Scribbles: thick strokes along HED's edges, by NVlabs/Sana's rule.

tools/controlnet/utils.py: non-maximum suppression of edges blurred by a
Gaussian (sigma 3), a pixel being kept if it is the maximum of three along one
of four directions and above 127; blurred again, and white above 4.
"""

import numpy as np
from scipy import ndimage

from sana_jax.data.annotators import hed
from sana_jax.typing import Float, Image, UInt8

_SIGMA, _EDGE, _STROKE = 3.0, 127, 4
_LINES = tuple(
  np.array(rows, bool)
  for rows in (
    ((0, 0, 0), (1, 1, 1), (0, 0, 0)),
    ((0, 1, 0), (0, 1, 0), (0, 1, 0)),
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
  )
)


def annotate(image: Image) -> Image:
  """Strokes of an image, white on black. Raises UserError without HED."""
  strokes = of_edges(hed.annotate(image)[..., 0])
  return np.repeat(strokes[..., None], 3, axis=2)


def of_edges(edges: UInt8[np.ndarray, 'y x']) -> UInt8[np.ndarray, 'y x']:
  """Strokes of an edge map, 0 or 255."""
  x = blurred(edges.astype(np.float32), 12)
  kept = np.zeros_like(x)
  for line in _LINES:
    largest = ndimage.grey_dilation(x, footprint=line, mode='nearest')
    kept = np.where(largest == x, x, kept)
  thin = np.where(kept > _EDGE, np.float32(255), 0)
  soft = np.rint(blurred(thin, 9))
  return np.where(soft > _STROKE, 255, 0).astype(np.uint8)


def blurred(
  x: Float[np.ndarray, 'y x'], radius: int
) -> Float[np.ndarray, 'y x']:
  """The blur of cv2.GaussianBlur, whose radius is 4 sigma, or 3 for uint8."""
  return ndimage.gaussian_filter(x, _SIGMA, mode='mirror', radius=radius)
