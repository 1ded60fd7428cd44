import numpy as np
from PIL import Image
import pytest

from sana_jax.data.pipeline import batches
from sana_jax.data.records import BadRecord
from sana_jax.data.shapes import builder, render, scene
from sana_jax.data.sources import open_source
from sana_jax.errors import UserError


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  path = tmp_path_factory.mktemp('data')
  return builder.prepare(path, 16, 60, heldout_examples=5).data_path


def test_shapes_are_drawn_and_read(tmp_path, monkeypatch):
  monkeypatch.setattr(builder, 'HELDOUT', 4)
  source = open_source('shapes', path=tmp_path, size=16, train_examples=12,
                       seed=3)
  assert len(source) == 12
  expected = scene(3, 'train', 7)
  assert source[7]['caption'] == expected.caption
  assert source[7]['index'] == 7
  np.testing.assert_array_equal(source[7]['image'], render(expected, 16))


def test_prepared_data_are_read_at_any_size_and_split(prepared):
  source = open_source(
    'tfds', path=prepared, size=8, split='heldout[1:3]')
  assert len(source) == 2
  assert source[0]['caption'] == scene(0, 'heldout', 1).caption
  assert source[0]['image'].shape == (8, 8, 3)
  assert source[0]['image'].dtype == np.uint8


def damaged(prepared, path, harm):
  for file in prepared.iterdir():
    content = bytearray(file.read_bytes())
    (path / file.name).write_bytes(
      harm(content) if 'train' in file.name else content)
  return open_source('tfds', path=path, size=16)


def test_a_damaged_record_is_skipped_and_the_rest_read(prepared, tmp_path):
  def flip(content):
    content[20_000] ^= 255
    return content
  source = damaged(prepared, tmp_path, flip)
  good = []
  for i in range(len(source)):
    try:
      good.append(source[i]['index'])
    except BadRecord as error:
      assert f'#{i}' in error.name
  assert 0 < 60 - len(good) <= 3
  read = [i for batch in batches(source, batch_size=8, seed=0, repeat=False)
          for i in batch['index'].tolist()]
  assert sorted(read) == good


@pytest.mark.parametrize('size', [0, 70_000])
def test_a_file_cut_short_stops_with_a_sentence(prepared, tmp_path, size):
  source = damaged(prepared, tmp_path, lambda content: content[:size])
  with pytest.raises(UserError, match=r'\d of 60 records are bad.*train #'):
    next(iter(batches(source, batch_size=8, seed=0)))


def test_folders_open_by_name(tmp_path):
  Image.new('RGB', (9, 9), 'red').save(tmp_path / 'a.png')
  (tmp_path / 'a.txt').write_text('red')
  source = open_source('folder', path=tmp_path, size=4)
  assert source[0]['caption'] == 'red'


def test_mistakes_are_explained(prepared, tmp_path):
  with pytest.raises(UserError, match='webdata.*shapes, tfds, folder, webdataset, '):
    open_source('webdata', path=tmp_path, size=8)
  with pytest.raises(UserError, match='features.json'):
    open_source('tfds', path=tmp_path, size=8)
  with pytest.raises(UserError, match="split='test'.*train, heldout"):
    open_source('tfds', path=prepared, size=8, split='test')
  with pytest.raises(UserError, match='size=0'):
    open_source('folder', path=tmp_path, size=0)
