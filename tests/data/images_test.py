import io

import numpy as np
from PIL import Image
import pytest
from written import encoded, noisy

from sana_jax.data.images import header_size, read_image, size_of


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'webp'])
@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_the_header_s_size_is_that_of_the_pixels(kind, orientation):
  image = Image.new('RGB', (8, 4))
  exif = image.getexif()
  exif[0x0112] = orientation
  buffer = io.BytesIO()
  image.save(buffer, kind, exif=exif)
  data = buffer.getvalue()
  assert header_size(data) == read_image(data).shape[:2]


@pytest.mark.parametrize('kind', ['png', 'jpeg'])
def test_the_header_is_enough(kind):
  assert header_size(noisy(60, 90, kind)[:1000]) == (60, 90)


def test_more_is_read_if_the_beginning_is_not_enough():
  data = encoded(5, 7, kind='jpeg', comment=b'long' * 16_000)
  data = data[:2] + b'\xff\xe2\xff\xff' + bytes(65533) + data[2:]
  ends = []
  assert size_of(lambda end: ends.append(end) or data[:end]) == (5, 7)
  assert ends == [2**16, None]


def test_damaged_images_have_no_size():
  assert header_size(b'') == header_size(b'no image') == (0, 0)

  def fail(end):
    raise OSError
  assert size_of(fail) == (0, 0)


def test_images_keep_their_size_unless_one_is_asked_for():
  assert read_image(encoded(7, 9)).shape == (7, 9, 3)
  assert read_image(encoded(7, 9), 4).shape == (4, 4, 3)
  assert read_image(encoded()).dtype == np.uint8
