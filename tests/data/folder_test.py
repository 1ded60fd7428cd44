import io
import itertools
import json

import numpy as np
from PIL import Image
import pytest

from sana_jax.data.folder import FolderSource, read_image
from sana_jax.data.pipeline import batches
from sana_jax.data.records import BadRecord
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


def put(path, caption='a cat', size=(20, 20), color='red', mode='RGB'):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, color).save(path)
  if caption is not None:
    path.with_suffix('.txt').write_text(caption + '\n')
  return path


def test_pairs_are_found_in_subfolders_in_the_order_of_names(tmp_path):
  put(tmp_path / 'b.png', 'second', color='blue')
  put(tmp_path / 'c' / 'a.WEBP', 'third')
  put(tmp_path / 'a.jpg', 'first')
  json_only = put(tmp_path / 'z.jpeg', None)
  json_only.with_suffix('.json').write_text(json.dumps({'prompt': 'fourth'}))
  (tmp_path / 'notes.txt').write_text('no image')
  source = FolderSource(tmp_path, 8)
  examples = [source[i] for i in range(len(source))]
  assert [e['caption'] for e in examples] == [
    'first',
    'second',
    'third',
    'fourth',
  ]
  assert [e['index'] for e in examples] == [0, 1, 2, 3]
  np.testing.assert_array_equal(
    examples[1]['image'], np.full((8, 8, 3), (0, 0, 255), np.uint8)
  )


def test_images_are_cropped_around_the_centre(tmp_path):
  wide = np.zeros((10, 30, 3), np.uint8)
  wide[:, 10:20] = 255  # Exactly the central square.
  Image.fromarray(wide).save(tmp_path / 'wide.png')
  assert (read_image(tmp_path / 'wide.png', 10) == 255).all()
  tall = read_image(tmp_path / 'wide.png')
  assert tall.shape == (10, 30, 3)


def test_transparency_becomes_white_and_grey_has_three_channels(tmp_path):
  put(tmp_path / 'clear.png', color=(9, 9, 9, 0), mode='RGBA')
  assert (read_image(tmp_path / 'clear.png', 4) == 255).all()
  put(tmp_path / 'grey.png', color=7, mode='L')
  np.testing.assert_array_equal(
    read_image(tmp_path / 'grey.png', 4), np.full((4, 4, 3), 7)
  )


def test_the_exif_orientation_is_applied():
  image = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
  exif = image.getexif()
  exif[0x0112] = 6  # Rotate by 90 degrees to show.
  buffer = io.BytesIO()
  image.save(buffer, 'png', exif=exif)
  assert read_image(buffer.getvalue()).shape == (8, 4, 3)


def test_damaged_records_raise_by_name(tmp_path):
  put(tmp_path / 'good.png')
  cut = put(tmp_path / 'cut.png', size=(64, 64))
  cut.write_bytes(cut.read_bytes()[:60])
  put(tmp_path / 'empty.png').write_bytes(b'')
  put(tmp_path / 'silent.png', caption='  ')
  put(tmp_path / 'odd.png', None).with_suffix('.json').write_text('[1')
  put(tmp_path / 'deep.png', None).with_suffix('.json').write_text('[' * 10**5)
  put(tmp_path / 'huge.png', None).with_suffix('.json').write_text(
    f'{{"prompt": "x", "seed": {"1" * 5000}}}'
  )
  put(tmp_path / 'half.png', None).with_suffix('.json').write_text(
    '{"prompt": "\\ud83d cat"}'
  )
  put(tmp_path / 'latin.png').with_suffix('.txt').write_bytes(b'caf\xe9')
  source = FolderSource(tmp_path, 8)
  failed = set()
  for i in range(len(source)):
    try:
      source[i]
    except BadRecord as error:
      failed.add(error.name)
  assert failed == {
    'cut.png',
    'empty.png',
    'silent.png',
    'odd.png',
    'deep.png',
    'huge.png',
    'half.png',
    'latin.png',
  }
  assert np.isnan(source.scores()).all()


def test_missing_captions_are_counted_and_too_many_raise(tmp_path):
  for i in range(9):
    put(tmp_path / f'{i}.png')
  put(tmp_path / 'mute.png', None)
  source = FolderSource(tmp_path, 8, max_bad_fraction=0.1)
  assert len(source) == 9
  assert source.bad.reasons == {
    'mute.png': 'no mute.txt or mute.json beside it'
  }
  with pytest.raises(UserError) as error:
    FolderSource(tmp_path, 8, max_bad_fraction=0.09)
  assert error.value.key == 'data.max_bad_fraction'
  assert (
    error.value.value == ['mute.png'] and error.value.allowed == '0 or fewer'
  )


def test_a_damaged_image_is_skipped_by_the_pipeline(tmp_path):
  for i in range(10):
    put(tmp_path / f'{i}.png', str(i))
  (tmp_path / '3.png').write_bytes(b'not an image')
  source = FolderSource(tmp_path, 8)
  one_pass = itertools.islice(
    iter(batches(source, batch_size=5, seed=0, max_bad_fraction=0.1)), 2
  )
  seen = {c for batch in one_pass for c in batch['caption'].tolist()}
  assert seen == set('0123456789') - {'3'}


def test_empty_missing_and_captionless_folders_are_reported(tmp_path):
  with pytest.raises(UserError) as error:
    FolderSource(tmp_path / 'none', 8)
  assert error.value.key == 'data.path'
  assert error.value.value == f'{tmp_path}/none'
  assert error.value.allowed == 'folders'
  with pytest.raises(UserError) as error:
    FolderSource(tmp_path, 8)
  assert error.value.key == 'data.path'
  assert error.value.value == str(tmp_path)
  put(tmp_path / 'a.png', None)
  with pytest.raises(UserError) as error:
    FolderSource(tmp_path, 8, max_bad_fraction=1.0)
  assert error.value.key == 'data.path'
  assert error.value.value == str(tmp_path)
  assert error.value.allowed == 'a folder of images with captions'
