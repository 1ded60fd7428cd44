"""Aspect-ratio buckets: SANA's training sizes, and the images of each.

The tables are those of NVlabs/Sana (diffusion/data/datasets/utils.py). A ratio
is height / width, rounded to two decimals; an image belongs to the bucket with
the nearest rounded ratio.
"""

from collections.abc import Mapping
import functools

import numpy as np
from PIL import Image as PilImage
from PIL import ImageOps

from sana_jax.typing import Image, Int, UInt8

Table = Mapping[float, tuple[int, int]]  # Ratio -> (height, width).

# Sizes at 1024 px; other tables are scaled from it.
_1024 = (
  '0.25:512x2048 0.26:512x1984 0.27:512x1920 0.28:512x1856 0.32:576x1792 '
  '0.33:576x1728 0.35:576x1664 0.4:640x1600 0.42:640x1536 0.48:704x1472 '
  '0.5:704x1408 0.52:704x1344 0.57:768x1344 0.6:768x1280 0.68:832x1216 '
  '0.72:832x1152 0.78:896x1152 0.82:896x1088 0.88:960x1088 0.94:960x1024 '
  '1.0:1024x1024 1.07:1024x960 1.13:1088x960 1.21:1088x896 1.29:1152x896 '
  '1.38:1152x832 1.46:1216x832 1.67:1280x768 1.75:1344x768 2.0:1408x704 '
  '2.09:1472x704 2.4:1536x640 2.5:1600x640 2.89:1664x576 3.0:1728x576 '
  '3.11:1792x576 3.62:1856x512 3.75:1920x512 3.88:1984x512 4.0:2048x512'
)
_2880 = (
  '0.25:1408x5760 0.26:1408x5568 0.27:1408x5376 0.28:1408x5184 0.32:1600x4992 '
  '0.33:1600x4800 0.34:1600x4672 0.4:1792x4480 0.42:1792x4288 0.47:1920x4096 '
  '0.49:1920x3904 0.51:1920x3776 0.55:2112x3840 0.59:2112x3584 0.68:2304x3392 '
  '0.72:2304x3200 0.78:2496x3200 0.83:2496x3008 0.89:2688x3008 0.93:2688x2880 '
  '1.0:2880x2880 1.07:2880x2688 1.12:3008x2688 1.21:3008x2496 1.28:3200x2496 '
  '1.39:3200x2304 1.47:3392x2304 1.7:3584x2112 1.82:3840x2112 2.03:3904x1920 '
  '2.13:4096x1920 2.39:4288x1792 2.5:4480x1792 2.92:4672x1600 3.0:4800x1600 '
  '3.12:4992x1600 3.68:5184x1408 3.82:5376x1408 3.95:5568x1408 4.0:5760x1408'
)
SIZES = (256, 512, 1024, 2048, 2880, 4096)


@functools.cache
def table(size_px: int, multiple: int = 1) -> Table:
  """Bucket table of a size, for an autoencoder of this compression.

  Tables of `SIZES` are published; others, for small models, are scaled from
  1024 px. Sides are rounded down to a multiple of `multiple`: at 256 px, 29 of
  40 sizes are not multiples of 32, and the official code cannot encode them.
  """
  entries = _2880 if size_px == 2880 else _1024
  scale, out = 1 if size_px == 2880 else size_px / 1024, {}
  for entry in entries.split():
    ratio, _, size = entry.partition(':')
    height, width = (
      max(multiple, int(int(n) * scale) // multiple * multiple)
      for n in size.split('x')
    )
    out[float(ratio)] = height, width
  return out


def nearest(
  sizes: Int[np.ndarray, 'n 2'], buckets: Table
) -> Int[np.ndarray, 'n']:
  """Bucket index of each (height, width); -1 if the size is unknown."""
  ratios = np.asarray(list(buckets), np.float64)
  order = np.argsort(ratios)
  # Ties go to the first one, as in the official code.
  own = np.where(sizes.min(1) > 0, sizes[:, 0] / np.maximum(sizes[:, 1], 1), 1)
  above = np.clip(np.searchsorted(ratios[order], own), 1, len(ratios) - 1)
  low, high = ratios[order][above - 1], ratios[order][above]
  found = np.where(own - low <= high - own, order[above - 1], order[above])
  return np.where(sizes.min(1) > 0, found, -1)


def members(
  sizes: Int[np.ndarray, 'n 2'], buckets: Table
) -> list[Int[np.ndarray, 'm']]:
  """Sorted image indices of each bucket, without images of unknown size."""
  found = nearest(sizes, buckets)
  order = np.argsort(found, kind='stable')
  edges = np.searchsorted(found[order], np.arange(len(buckets) + 1))
  return [order[start:stop] for start, stop in zip(edges, edges[1:])]


def fit(
  image: Image, size: tuple[int, int]
) -> UInt8[np.ndarray, '{size[0]} {size[1]} 3']:
  """Scales an image to cover (height, width) and crops its centre.

  Bicubic up to 2048 px and Lanczos above, as in the official code; no flips.
  """
  filters = PilImage.Resampling
  how = filters.LANCZOS if max(size) > 2048 else filters.BICUBIC
  if image.shape[:2] == size:
    return image
  return np.asarray(ImageOps.fit(PilImage.fromarray(image), size[::-1], how))
