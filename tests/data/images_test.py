import io
import struct

import numpy as np
from PIL import EpsImagePlugin, Image, ImageOps
import pytest
from written import encoded, noisy

from sana_jax.data.array_cache import FAILED_READS
from sana_jax.data.images import (
  header_size,
  header_sizes,
  read_image,
  size_of,
)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'webp'])
@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_the_header_s_size_is_that_of_the_decoded_image(kind, orientation):
  image = Image.new('RGB', (8, 4))
  exif = image.getexif()
  exif[0x0112] = orientation
  buffer = io.BytesIO()
  image.save(buffer, kind, exif=exif)
  data = buffer.getvalue()
  assert header_size(data) == read_image(data).shape[:2]


@pytest.mark.parametrize('kind', ['png', 'jpeg'])
def test_the_header_suffices(kind):
  assert header_size(noisy(60, 90, kind)[:1000]) == (60, 90)


def test_more_is_read_if_the_header_does_not_suffice():
  data = encoded(5, 7, kind='jpeg', comment=b'long' * 16_000)
  data = data[:2] + b'\xff\xe2\xff\xff' + bytes(65533) + data[2:]
  ends = []
  assert size_of(lambda end: ends.append(end) or data[:end]) == (5, 7)
  assert ends == [2**16, None]


def test_damaged_images_have_no_size():
  assert header_size(b'') == header_size(b'no image') == (0, 0)


def test_failed_reads_are_counted():
  def read(index, end):
    if index == 1:
      raise OSError('503')
    return [encoded(5, 7), None, b'no image'][index][:end]

  found = header_sizes(read, 3)
  assert found['sizes'].tolist() == [[5, 7], [0, 0], [0, 0]]
  assert found[FAILED_READS] == 1


def test_images_keep_their_size_unless_one_is_given():
  assert read_image(encoded(7, 9)).shape == (7, 9, 3)
  assert read_image(encoded(7, 9), 4).shape == (4, 4, 3)
  assert read_image(encoded()).dtype == np.uint8


@pytest.mark.parametrize(
  'entry, damaged',
  [
    (b'\x01\x1a\x00\x05', b'\x01\x1a\x00\x01'),  # A ratio, declared as bytes.
    (b'\x01\x0f\x00\x02', b'\x01\x00\x00\x02'),
  ],
)  # A text, declared as a width.
def test_a_photo_with_damaged_exif_is_read_and_turned(entry, damaged):
  image = Image.new('RGB', (8, 4))
  exif = image.getexif()
  exif[0x0112], exif[0x011A], exif[0x010F] = 6, 72.0, 'maker'
  buffer = io.BytesIO()
  image.save(buffer, 'jpeg', exif=exif)
  data = buffer.getvalue()
  assert entry in data
  data = data.replace(entry, damaged)
  assert read_image(data).shape == (8, 4, 3)
  assert header_size(data) == (8, 4)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_as_pillow_turns_them(orientation):
  image = Image.open(io.BytesIO(noisy(4, 8)))
  exif = image.getexif()
  exif[0x0112] = orientation
  buffer = io.BytesIO()
  image.save(buffer, 'png', exif=exif)
  np.testing.assert_array_equal(
    read_image(buffer.getvalue()),
    ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))),
  )


@pytest.mark.parametrize(
  'error', [struct.error('unpack'), TypeError('abs'), RuntimeError('decoder')]
)
def test_any_error_of_a_decoder_is_a_damaged_image(error, monkeypatch):
  def fail(self):
    raise error

  monkeypatch.setattr(Image.Image, 'getexif', fail)
  data = encoded(kind='jpeg')
  with pytest.raises(ValueError, match=str(error)):
    read_image(data)
  assert header_size(data) == (0, 0)


def test_no_external_program_decodes_an_image(tmp_path, monkeypatch):
  # Pillow calls Ghostscript for EPS, whatever the file's name is.
  canary = tmp_path / 'canary'
  ghostscript = tmp_path / 'gs'
  ghostscript.write_text(f'#!/bin/sh\ntouch {canary}\n')
  ghostscript.chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
  monkeypatch.setattr(EpsImagePlugin, 'gs_binary', None)
  buffer = io.BytesIO()
  Image.new('RGB', (8, 8)).save(buffer, 'EPS')
  with pytest.raises(ValueError) as error:
    read_image(buffer.getvalue())
  assert isinstance(error.value.__cause__, Image.UnidentifiedImageError)
  assert not canary.exists()
  assert header_size(buffer.getvalue()) == (0, 0)


def test_an_image_of_too_many_pixels_is_not_decoded():
  buffer = io.BytesIO()
  Image.new('1', (9_500, 9_500)).save(buffer, 'PNG')
  data = buffer.getvalue()
  assert len(data) < 2**16
  with (
    pytest.warns(Image.DecompressionBombWarning),
    pytest.raises(ValueError, match='9,500 x 9,500'),
  ):
    read_image(data)
