"""Resolution binning: the aspect ratios that SANA was trained at.

Images are made at the nearest trained size, then scaled to cover the requested
size and cropped to it. The tables are those of diffusers' SanaPipeline (NVlabs'
*_TEST tables); a ratio is height / width. diffusers truncates when it scales,
and may return an image one pixel high (its 0.42.1); here sizes are rounded.
"""

import jax

from sana_jax.typing import Array, Float

# Height x width in pixels at 1024 px; the 512 px table is half of it.
_BINS_1024 = (
  '512x2048 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 '
  '704x1408 704x1344 768x1344 768x1280 832x1216 832x1152 896x1152 896x1088 '
  '960x1088 960x1024 1024x1024 1024x960 1088x960 1088x896 1152x896 1152x832 '
  '1216x832 1280x768 1344x768 1408x704 1472x704 1536x640 1600x640 1728x576 '
  '2048x512'
)
_RATIOS_1024 = (
  '0.25 0.28 0.32 0.33 0.35 0.4 0.42 0.48 0.5 0.52 0.57 0.6 0.68 0.72 0.78 '
  '0.82 0.88 0.94 1.0 1.07 1.13 1.21 1.29 1.38 1.46 1.67 1.75 2.0 2.09 2.4 '
  '2.5 3.0 4.0'
)
# At 2048 px; the 4096 px table is twice that.
_BINS_2048 = (
  '1024x4096 1024x3968 1024x3840 1024x3712 1152x3584 1152x3456 1152x3328 '
  '1280x3200 1280x3072 1408x2944 1408x2816 1408x2688 1536x2688 1536x2560 '
  '1664x2432 1664x2304 1792x2304 1792x2176 1920x2176 1920x2048 2048x2048 '
  '2048x1920 2176x1920 2176x1792 2304x1792 2304x1664 2432x1664 2560x1536 '
  '2688x1536 2816x1408 2944x1408 3072x1280 3200x1280 3328x1152 3456x1152 '
  '3584x1152 3712x1024 3840x1024 3968x1024 4096x1024'
)
_RATIOS_2048 = (
  '0.25 0.26 0.27 0.28 0.32 0.33 0.35 0.4 0.42 0.48 0.5 0.52 0.57 0.6 0.68 '
  '0.72 0.78 0.82 0.88 0.94 1.0 1.07 1.13 1.21 1.29 1.38 1.46 1.67 1.75 2.0 '
  '2.09 2.4 2.5 2.89 3.0 3.11 3.62 3.75 3.88 4.0'
)


def _table(ratios, sizes, numerator=1, denominator=1):
  pairs = (
    tuple(int(n) * numerator // denominator for n in size.split('x'))
    for size in sizes.split()
  )
  return {float(ratio): pair for ratio, pair in zip(ratios.split(), pairs)}


# Keyed by the transformer's sample_size, the side of its latents.
TABLES = {
  16: _table(_RATIOS_1024, _BINS_1024, 1, 2),
  32: _table(_RATIOS_1024, _BINS_1024),
  64: _table(_RATIOS_2048, _BINS_2048),
  128: _table(_RATIOS_2048, _BINS_2048, 2),
}


def nearest(height: int, width: int, sample_size: int) -> tuple[int, int]:
  """The trained size of the nearest ratio; unchanged for other models."""
  if sample_size not in TABLES:
    return height, width
  table, ratio = TABLES[sample_size], height / width
  return table[min(table, key=lambda r: abs(r - ratio))]


def covering(made: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
  """The smallest scaled size of a picture that covers the wanted one."""
  scale = max(a / m for a, m in zip(wanted, made))
  rows, columns = (max(a, round(m * scale)) for a, m in zip(wanted, made))
  return rows, columns


def resize_and_crop(
  images: Float[Array, 'b y x c'], height: int, width: int
) -> Float[Array, 'b {height} {width} c']:
  """Scales images to cover height x width, then crops their centre."""
  batch, y, x, channels = images.shape
  if (y, x) == (height, width):
    return images
  rows, columns = covering((y, x), (height, width))
  images = jax.image.resize(
    images, (batch, rows, columns, channels), 'linear', antialias=False
  )
  top, left = (rows - height) // 2, (columns - width) // 2
  return images[:, top : top + height, left : left + width]
