"""PNG files say how they were made; contact sheets hold every picture."""

import numpy as np
from PIL import Image, ImageFont
import pytest

from sana_jax.inference import images, parameters

pytestmark = pytest.mark.fast

RED, BLUE = ([255, 0, 0], [0, 0, 255])


def plain(colour, height=8, width=8):
  return np.full((height, width, 3), colour, np.uint8)


def test_pixels_and_metadata_survive(tmp_path):
  path = tmp_path / 'a.png'
  picture = np.random.default_rng().integers(0, 256, (5, 7, 3)).astype(np.uint8)
  metadata = {'prompt': 'ein roter Kreis, “赤い丸” 🔴', 'seed': 7, 'steps': 20}
  images.write_png(path, picture, metadata)
  with Image.open(path) as read:
    np.testing.assert_array_equal(np.asarray(read), picture)
    assert read.text == {
      **{k: str(v) for k, v in metadata.items()},
      'parameters': parameters.text(metadata),
    }
  assert [p.name for p in tmp_path.iterdir()] == ['a.png']


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp'])
def test_the_text_for_other_programs_is_in_png_alone(suffix):
  about = {'prompt': 'a red circle', 'seed': 7, 'steps': 20}
  data = images.encode(plain(RED), suffix, about)
  assert b'a red circle' in data
  assert (parameters.text(about).encode() in data) == (suffix == '.png')


def test_the_same_picture_is_the_same_file(tmp_path):
  for name in 'ab':
    images.write_png(tmp_path / name, plain(RED), {'seed': 1})
  assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  images.write_png(path, plain(RED))
  before = path.read_bytes()

  def half(self, file, *_, **__):
    file.write(before[:20])
    raise OSError('No space left on device')

  monkeypatch.setattr(Image.Image, 'save', half)
  for name in ('a.png', 'new.png'):
    with pytest.raises(OSError, match='No space left'):
      images.write_png(tmp_path / name, plain(BLUE))
  assert [p.name for p in tmp_path.iterdir()] == ['a.png']
  assert path.read_bytes() == before


def test_every_picture_is_in_its_cell():
  colours = [[40 * i, 200 - 40 * i, 90] for i in range(5)]
  sheet = images.contact_sheet(
    [plain(c, 64, 32) for c in colours], ['one'] * 5, columns=3
  )
  assert sheet.size[0] % 3 == sheet.size[1] % 2 == 0
  # Enlarged by 4, so that the smaller side has 128 pixels.
  width, height = sheet.size[0] // 3, sheet.size[1] // 2
  assert width - 128 == 2 * 6 and height > 256 + 2 * 6
  pixels = np.asarray(sheet)
  for i, colour in enumerate(colours):
    top, left = i // 3 * height + 6, i % 3 * width + 6
    tile = pixels[top : top + 256, left : left + 128]
    assert (tile == colour).all()
    assert (pixels[top : top + 256, left - 6 : left] == 255).all()
    # The label below has dark text on white.
    label = pixels[top + 256 : top + height - 6, left : left + 128]
    assert label.min() < 80 and label.max() == 255
  assert (pixels[height:, 2 * width :] == 255).all()  # No sixth.


def test_large_pictures_keep_their_size_and_the_grid_is_square():
  sheet = images.contact_sheet([plain(RED, 130, 200)] * 4, [''] * 4)
  assert sheet.size[0] == 2 * (200 + 12)
  assert (np.asarray(sheet)[6:136, 6:206] == RED).all()


def test_wrong_pictures_are_framed():
  sheet = np.asarray(
    images.contact_sheet(
      [plain(BLUE, 128, 128)] * 2, ['', ''], columns=2, wrong=[False, True]
    )
  )
  middle = sheet[6 + 64]
  assert (middle[6:134] == BLUE).all()
  assert (middle[3:6] == 255).all()  # Not framed.
  assert (middle[140 + 3 : 140 + 6] == RED).all()
  assert (middle[140 + 6 : 140 + 134] == BLUE).all()
  assert (middle[140 + 134 : 140 + 137] == RED).all()


def test_labels_wrap_at_words_and_long_ones_are_cut():
  font = ImageFont.load_default(12)
  text = 'a red circle to the left of two green squares and a lamp'
  lines = images.wrap(text, font, 120, most=9)
  assert ' '.join(lines) == text and len(lines) > 2
  assert all(font.getlength(line) <= 120 for line in lines)
  short = images.wrap(text, font, 120, most=2)
  assert short == [lines[0], lines[1] + ' …']
