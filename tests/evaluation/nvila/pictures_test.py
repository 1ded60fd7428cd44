"""Tiles of pictures against Pillow, transformers and closed forms."""

import numpy as np
from PIL import Image
import pytest
import transformers

from sana_jax.errors import UserError
from sana_jax.evaluation.nvila.pictures import (
  bicubic,
  cut,
  nearest,
  processor_of,
)
from sana_jax.models.nvila.scales import Scales
from sana_jax.weights.nvila_config import Settings

pytestmark = pytest.mark.fast


def picture(height=40, width=40):
  rng = np.random.default_rng()
  return rng.integers(256, size=(height, width, 3)).astype(np.uint8)


def pixels(image, width, height):
  """A picture of another size, from -1 to 1."""
  resized = Image.fromarray(image).resize((width, height), Image.BICUBIC)
  return np.asarray(resized, np.float64) / 127.5 - 1


@pytest.mark.parametrize('resample', [2, 3])
def test_one_tile_is_that_of_transformers(resample):
  image, size = picture(30, 50), {'height': 28, 'width': 28}
  config = dict(size=size, resample=resample, image_mean=[0.4, 0.5, 0.6])
  theirs = transformers.models.siglip.image_processing_pil_siglip
  want = theirs.SiglipImageProcessorPil(**config)(Image.fromarray(image))
  got = cut(image, processor_of(config, 28), Settings())
  assert got.scales is None and got.tiles.shape == (1, 28, 28, 3)
  want = np.moveaxis(want['pixel_values'][0], 0, -1)
  np.testing.assert_allclose(got.tiles[0], want, atol=1e-6)


def test_resizing_first_is_bicubic_whatever_the_processor_does():
  image = picture()
  got = cut(image, processor_of({'resample': 0}, 28), Settings(aspect='resize'))
  np.testing.assert_allclose(got.tiles[0], pixels(image, 28, 28), atol=1e-6)


@pytest.mark.parametrize(
  'size, least, grid',
  [
    ((448, 448), 1, (1, 1)),
    ((1024, 1024), 1, (3, 3)),  # More than half of 3 x 3, and of 2 x 2.
    ((896, 896), 1, (2, 2)),
    ((1600, 800), 1, (2, 4)),
    ((400, 1600), 1, (4, 1)),
    ((1024, 1024), 9, (3, 3)),
    ((1600, 1000), 9, (3, 4)),
  ],
)
def test_the_grid_of_tiles_is_the_nearest(size, least, grid):
  assert nearest(size, least, 12, 448) == grid


def test_fewer_tiles_than_the_last_scale_are_refused():
  with pytest.raises(UserError) as error:
    nearest((448, 448), 9, 8, 448)
  assert (error.value.key, error.value.value) == ('max_tiles', 8)


def test_dynamic_tiles_are_followed_by_the_whole_picture():
  image = picture(28, 56)
  got = cut(image, processor_of({}, 28), Settings(aspect='dynamic'))
  assert got.tiles.shape == (3, 28, 28, 3) and got.scales is None
  grid = pixels(image, 56, 28)
  np.testing.assert_allclose(got.tiles[0], grid[:, :28], atol=1e-6)
  np.testing.assert_allclose(got.tiles[1], grid[:, 28:], atol=1e-6)
  np.testing.assert_allclose(got.tiles[2], pixels(image, 28, 28), atol=1e-6)


def test_dynamic_scales_end_with_the_pictures_own_shape():
  image = picture(56, 84)
  settings = Settings(aspect='dynamic_s2', sizes=(28, 56), output=-1)
  got = cut(image, processor_of({}, 28), settings)
  assert got.scales == Scales(((1, 1), (2, 3)), -1, by_tile=True)
  assert len(got.tiles) == got.scales.tiles == 7
  last = pixels(image, 84, 56)
  np.testing.assert_allclose(got.tiles[4 + 1], last[28:, 28:56], atol=1e-6)


def test_fixed_scales_are_cut_from_one_square():
  image = picture()
  settings = Settings(aspect='resize', sizes=(14, 42))
  got = cut(image, processor_of({}, 14), settings)
  assert got.scales == Scales(((1, 1), (3, 3)))
  square = pixels(image, 42, 42)
  # A third of the size, without antialiasing: each third pixel.
  np.testing.assert_allclose(got.tiles[0], square[1::3, 1::3], atol=1e-5)
  np.testing.assert_allclose(got.tiles[6], square[14:28, 28:], atol=1e-5)


def test_bicubic_rows_are_weights_and_keep_lines():
  matrix = bicubic(20, 33)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
  same = bicubic(7, 7)
  np.testing.assert_allclose(same, np.eye(7), atol=1e-6)


@pytest.mark.parametrize(
  'key, value',
  [
    ('size', {'height': 14, 'width': 28}),
    ('do_normalize', False),
    ('image_std', [0, 1, 1]),
    ('resample', 'bicubic'),
  ],
)
def test_another_processor_is_refused(key, value):
  with pytest.raises(UserError) as error:
    processor_of({key: value}, 28)
  assert error.value.key == key
