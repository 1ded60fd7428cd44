"""Every mode of Pillow maps to 8 bits by its range."""

import io
import re

import numpy as np
from PIL import Image
import pytest

from sana_jax.data.images import displayed, header_size, read_image

pytestmark = pytest.mark.fast


def stored(image, kind='png', **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


RAMP = np.array([[0, 1000, 32768, 65535]])


@pytest.mark.parametrize(
  'values, kind',
  [
    (RAMP.astype(np.uint16), 'png'),
    (RAMP.astype(np.uint16), 'tiff'),
    (RAMP.astype(np.int32), 'tiff'),
    ((RAMP / 65535).astype(np.float32), 'tiff'),
  ],
)
def test_deep_gray_is_scaled_by_its_range(values, kind):
  found = read_image(stored(Image.fromarray(values), kind))
  expected = np.rint(RAMP / 65535 * 255)
  np.testing.assert_array_equal(found, np.stack([expected] * 3, -1))


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'CMYK', 'LAB'])
def test_white_and_black_stay_so_in_8_bit_modes(mode):
  pixels = np.zeros((8, 16, 3), np.uint8)
  pixels[:, 8:] = 255
  source = Image.fromarray(pixels)
  if mode == 'LAB':
    data = np.zeros((8, 16, 3), np.uint8)
    data[:, 8:, 0] = 255
    image = Image.frombytes('LAB', (16, 8), data.tobytes())
  else:
    image = source.convert(mode)
  found = read_image(stored(image, 'tiff')).astype(int)
  assert abs(found - pixels).max() <= 2


@pytest.mark.parametrize('mode', ['RGBX', 'RGBa', 'La', 'YCbCr', 'HSV', 'CMYK'])
def test_modes_without_a_file_are_those_of_pillow(mode):
  pixels = np.random.default_rng().integers(0, 256, (8, 8, 3), np.uint8)
  source = Image.fromarray(pixels)
  if mode in ('La', 'RGBa'):
    source = source.convert(mode[:-1] + 'A')
  image = source.convert(mode)
  # Pillow converts La to LA only.
  between = image.convert('LA') if mode == 'La' else image
  expected = np.asarray(between.convert('RGB')).astype(int)
  found = np.asarray(displayed(image))
  assert abs(found - expected).max() <= 2


@pytest.mark.parametrize('mode', ['La', 'RGBa'])
def test_premultiplied_transparency_is_white(mode):
  image = Image.new('RGBA', (4, 4), (9, 9, 9, 0))
  image = image.convert(mode[:-1] + 'A').convert(mode)
  assert (np.asarray(displayed(image)) == 255).all()


@pytest.mark.parametrize('mode', ['I;16B', 'I;16L'])
def test_deep_gray_of_any_order_of_bytes_is_scaled(mode):
  image = Image.fromarray(RAMP.astype(np.int32)).convert(mode)
  assert image.mode == mode
  expected = np.rint(RAMP / 65535 * 255)
  found = np.asarray(displayed(image))
  np.testing.assert_array_equal(found, np.stack([expected] * 3, -1))
  if mode == 'I;16B':
    np.testing.assert_array_equal(read_image(stored(image, 'tiff')), found)


@pytest.mark.parametrize('mode', ['LA', 'PA', 'RGBA'])
def test_transparent_pixels_are_white_in_every_mode(mode):
  image = Image.new('RGBA', (4, 4), (9, 9, 9, 0)).convert(mode)
  kind = 'tiff' if mode == 'PA' else 'png'
  assert (read_image(stored(image, kind)) == 255).all()


def test_the_transparent_gray_of_a_deep_png_is_white():
  image = Image.fromarray(RAMP.astype(np.uint16))
  found = read_image(stored(image, transparency=1000))
  np.testing.assert_array_equal(found[0, :, 0], [0, 255, 128, 255])


@pytest.mark.parametrize(
  'values',
  [
    np.array([[0, 2**20]], np.int32),
    np.array([[-1, 5]], np.int32),
    np.array([[0, 255]], np.float32),
    np.array([[0, np.nan]], np.float32),
  ],
)
def test_values_of_an_unknown_range_are_refused(values):
  with pytest.raises(ValueError, match=re.escape(f'{values.max():g}')):
    read_image(stored(Image.fromarray(values), 'tiff'))


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'tiff', 'webp', 'avif'])
@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_sizes_are_those_of_the_pixels_for_every_orientation(kind, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = stored(Image.new('RGB', (16, 32)), kind, exif=exif)
  expected = (16, 32) if orientation == 6 else (32, 16)
  assert read_image(data).shape[:2] == expected
  assert header_size(data) == expected
