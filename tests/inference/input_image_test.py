"""An image to start from is the same as a file and as an object of Pillow."""

import io

import numpy as np
from PIL import Image
import pytest

from sana_jax.data.images import read_image
from sana_jax.errors import UserError
from sana_jax.inference import input_image

pytestmark = pytest.mark.fast

RAMP = np.linspace(0, 65535, 64).reshape(8, 8)


def images():
  """Images that a plain conversion to RGB would change or refuse."""
  clear = Image.new('RGBA', (8, 8), (9, 9, 9, 0))
  gray = Image.fromarray((RAMP / 257).astype(np.uint8))
  turned = gray.convert('RGB')
  turned.getexif()[0x0112] = 6
  return {
    'I;16': Image.fromarray(RAMP.astype(np.uint16)),
    'I': Image.fromarray(RAMP.astype(np.int32)),
    'F': Image.fromarray((RAMP / 65535).astype(np.float32)),
    'RGBA': clear,
    'LA': clear.convert('LA'),
    'PA': clear.convert('PA'),
    'turned': turned,
  }


@pytest.mark.parametrize('name', images())
def test_an_image_of_pillow_is_read_as_its_file(name, tmp_path):
  image = images()[name]
  kind = 'png' if name in ('LA', 'RGBA', 'turned') else 'tiff'
  file = io.BytesIO()
  image.save(file, kind, exif=image.getexif())
  want = read_image(file.getvalue())
  with Image.open(io.BytesIO(file.getvalue())) as opened:
    for given in (image, opened):
      np.testing.assert_array_equal(input_image.pixels(given), want)


def test_transparency_is_white_and_16_bits_are_scaled():
  assert (input_image.pixels(images()['RGBA']) == 255).all()
  found = input_image.pixels(images()['I;16'])[..., 0]
  np.testing.assert_array_equal(found, np.rint(np.rint(RAMP - 0.5) / 257))


def test_values_of_an_unknown_range_are_refused():
  with pytest.raises(UserError) as error:
    input_image.pixels(Image.fromarray(RAMP.astype(np.float32)))
  assert error.value.key == 'image'
  assert error.value.value == 'F'
  assert 'an array [height, width, 3]' in error.value.allowed
