"""The trained aspect ratios, and pictures of exactly the requested size."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.inference import bins

pytestmark = pytest.mark.fast


def test_published_entries_of_every_table():
  # diffusers' ASPECT_RATIO_{512,1024,2048,4096}_BIN.
  for sample_size, length, entries in (
    (16, 33, {0.25: (256, 1024), 0.94: (480, 512), 2.09: (736, 352)}),
    (32, 33, {0.48: (704, 1472), 1.0: (1024, 1024), 3.0: (1728, 576)}),
    (64, 40, {0.26: (1024, 3968), 1.67: (2560, 1536), 3.62: (3712, 1024)}),
    (128, 40, {0.4: (2560, 6400), 2.89: (6656, 2304), 4.0: (8192, 2048)}),
  ):
    table = bins.TABLES[sample_size]
    assert len(table) == length
    assert table.items() >= entries.items()


def test_tables_are_multiples_of_32_near_their_ratio_and_scale():
  for sample_size, table in bins.TABLES.items():
    area = (32 * sample_size) ** 2
    for ratio, (height, width) in table.items():
      assert height % 32 == width % 32 == 0
      assert abs(height / width - ratio) <= 0.021
      assert 0.85 * area <= height * width <= 1.05 * area
  for small, large in ((16, 32), (64, 128)):
    assert list(bins.TABLES[small]) == list(bins.TABLES[large])
    for ratio, (height, width) in bins.TABLES[small].items():
      assert bins.TABLES[large][ratio] == (2 * height, 2 * width)


@pytest.mark.parametrize(
  'size, sample_size, want',
  [
    ((1024, 1024), 32, (1024, 1024)),
    ((960, 1280), 32, (832, 1152)),
    ((480, 640), 16, (416, 576)),
    ((64, 6400), 64, (1024, 4096)),
    ((6400, 64), 128, (8192, 2048)),
    ((100, 100), 32, (1024, 1024)),
    ((96, 160), 7, (96, 160)),
  ],
)
def test_nearest(size, sample_size, want):
  assert bins.nearest(*size, sample_size) == want


def test_a_tie_goes_to_the_first_as_in_diffusers():
  # 3.5 lies between 3 and 4, and 2.75 between 2.5 and 3, exactly.
  assert bins.nearest(7, 2, 32) == (1728, 576)
  assert bins.nearest(11, 4, 32) == (1600, 640)


def test_every_size_is_covered_and_one_side_fits():
  sides = range(512, 2049, 16)
  for requested in itertools.product(sides, sides):  # 9,409 of them.
    made = bins.nearest(*requested, 32)
    rows, columns = bins.covering(made, requested)
    assert rows >= requested[0] and columns >= requested[1]
    assert rows == requested[0] or columns == requested[1]
    scale = max(requested[0] / made[0], requested[1] / made[1])
    # Rounded, never cut off: diffusers loses a pixel, and then the picture.
    assert abs(rows - made[0] * scale) <= 0.5
    assert abs(columns - made[1] * scale) <= 0.5


@pytest.mark.parametrize(
  'made, requested',
  [
    ((832, 1152), (960, 1280)),  # diffusers 0.42.1 returns 1 x 1280 of it,
    ((416, 576), (480, 640)),  # and 1 x 640 of this.
    ((3, 9), (9, 3)),
  ],
)
def test_the_size_is_exactly_the_requested_one(made, requested):
  images = jnp.full((1, *made, 1), 0.25)
  got = bins.resize_and_crop(images, *requested)
  assert got.shape == (1, *requested, 1)
  np.testing.assert_allclose(got, 0.25, rtol=1e-6)


def test_the_centre_is_kept():
  x = jnp.arange(10.0)[None, None, :, None] * jnp.ones((1, 4, 1, 1))
  np.testing.assert_array_equal(
    bins.resize_and_crop(x, 4, 4)[0, 0, :, 0], [3, 4, 5, 6]
  )
  # Twice as large: samples at -0.25, 0.25, ... pixels, held at the border.
  got = bins.resize_and_crop(x[:, :2, :2], 4, 4)[0, 0, :, 0]
  np.testing.assert_allclose(got, [0, 0.25, 0.75, 1], atol=1e-6)


def test_shrinking_does_not_smooth():
  # torch's interpolate without antialias takes the two nearest pixels.
  x = jnp.array([0.0, 1, 0, 1, 0, 1, 0, 1, 0])[None, None, :, None]
  x = x * jnp.ones((1, 9, 1, 1))
  np.testing.assert_allclose(
    bins.resize_and_crop(x, 3, 3)[0, 0, :, 0], [1, 0, 1], atol=1e-6
  )
