"""Canny edges by scikit-image, white on black.

Its thresholds are quantiles of the gradient, so that images of any contrast
have edges; they do not equal OpenCV's.
"""

import numpy as np

from sana_jax.extras import missing
from sana_jax.typing import Image

SIGMA = 2.0
LOW, HIGH = 0.8, 0.95  # Quantiles of the gradient.


def annotate(image: Image) -> Image:
  """Edges of an image. Raises UserError without scikit-image."""
  try:
    from skimage.feature import canny
  except ImportError as error:
    raise missing('skimage', 'The annotator canny') from error
  grey = image.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
  edges = canny(
    grey,
    SIGMA,
    low_threshold=LOW,
    high_threshold=HIGH,
    use_quantiles=True,
    mode='nearest',
  )
  return np.repeat(np.uint8(255 * edges)[..., None], 3, axis=2)
