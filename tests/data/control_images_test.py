"""Control images of a source: made at the bucket's size, or read."""

import numpy as np
from PIL import Image
import pytest

from sana_jax.data.control_images import ControlImages
from sana_jax.data.records import BadRecord
from sana_jax.data.sources import open_source

pytestmark = pytest.mark.fast


def source(folder):
  """Two images, 16 x 8 and 8 x 16, and their control images in control/."""
  images, control = folder / 'images', folder / 'control'
  for path in (images, control):
    path.mkdir(parents=True)
  for name, (width, height), value in (('a', (16, 8), 50), ('b', (8, 16), 90)):
    Image.new('RGB', (width, height), (value,) * 3).save(images / f'{name}.png')
    (images / f'{name}.txt').write_text(name)
    Image.new('RGB', (2 * width, 2 * height), (0, value, 0)).save(
      control / f'{name}.png'
    )
  return open_source('folder', path=images, size=None, cache='')


def of(folder, annotator='files'):
  return ControlImages(
    source(folder),
    [(4, 8), (8, 4)],
    np.array([0, 1]),
    annotator,
    folder / 'control',
  )


def test_files_are_read_by_name_and_fitted_to_the_bucket(tmp_path):
  control = of(tmp_path)
  shapes = {control[i]['caption']: control[i]['image'].shape for i in range(2)}
  assert shapes == {'a': (4, 8, 3), 'b': (8, 4, 3)}
  assert control[0]['image'][0, 0].tolist() == [0, 50, 0]
  assert control.with_all_captions(0)['image'].shape == (4, 8, 3)


def test_a_missing_file_is_a_bad_record(tmp_path):
  control = of(tmp_path)
  (tmp_path / 'control' / 'b.png').unlink()
  with pytest.raises(BadRecord, match='b.png'):
    control[1]


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n'])
def test_a_damaged_file_is_a_bad_record(content, tmp_path):
  control = of(tmp_path)
  (tmp_path / 'control' / 'b.png').write_bytes(content)
  with pytest.raises(BadRecord, match='b.png'):
    control[1]
