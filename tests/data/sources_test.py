import itertools
import json
import re
import shutil

import numpy as np
from PIL import Image
import pytest
from written import array_record, encoded, parquet_file, sample, tar

from sana_jax.data import files
from sana_jax.data.captions import CaptionRule
from sana_jax.data.pipeline import batches
from sana_jax.data.records import BadRecord
from sana_jax.data.shapes import builder, render, scene
from sana_jax.data.sources import DescribedSource, KINDS, open_source
from sana_jax.errors import UserError


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  path = tmp_path_factory.mktemp('data')
  return builder.prepare(path, 16, 60, heldout_examples=5).data_path


@pytest.mark.long
def test_shapes_are_rendered_and_read(tmp_path, monkeypatch):
  monkeypatch.setattr(builder, 'HELDOUT', 4)
  source = open_source(
    'shapes', path=tmp_path, size=16, train_examples=12, seed=3
  )
  assert len(source) == 12
  expected = scene(3, 'train', 7)
  assert source[7]['caption'] == expected.caption
  assert source[7]['index'] == 7
  np.testing.assert_array_equal(source[7]['image'], render(expected, 16))


def test_prepared_data_are_read_at_any_size_and_split(prepared):
  source = open_source('tfds', path=prepared, size=8, split='heldout[1:3]')
  assert len(source) == 2
  assert source[0]['caption'] == scene(0, 'heldout', 1).caption
  assert source[0]['image'].shape == (8, 8, 3)
  assert source[0]['image'].dtype == np.uint8


def damaged(prepared, path, harm):
  for file in prepared.iterdir():
    content = bytearray(file.read_bytes())
    (path / file.name).write_bytes(
      harm(content) if 'train' in file.name else content
    )
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
  one_pass = itertools.islice(iter(batches(source, batch_size=10, seed=0)), 6)
  read = [i for batch in one_pass for i in batch['index'].tolist()]
  assert set(read) == set(good)


@pytest.mark.parametrize('size', [0, 70_000])
def test_a_truncated_file_is_a_user_error(prepared, tmp_path, size):
  source = damaged(prepared, tmp_path, lambda content: content[:size])
  with pytest.raises(UserError) as error:
    next(iter(batches(source, batch_size=8, seed=0)))
  assert error.value.key == 'data.max_bad_fraction'
  assert all('train #' in name for name in error.value.value)
  assert ' of 60 ' in str(error.value)


def test_folders_open_by_name(tmp_path):
  Image.new('RGB', (9, 9), 'red').save(tmp_path / 'a.png')
  (tmp_path / 'a.txt').write_text('red')
  source = open_source('folder', path=tmp_path, size=4)
  assert source[0]['caption'] == 'red'


def test_shapes_and_tfds_have_sizes(prepared, tmp_path):
  source = open_source('tfds', path=prepared, size=8, cache=tmp_path)
  assert source.sizes().tolist() == [[16, 16]] * 60
  assert np.isnan(source.scores()).all()
  with pytest.raises(UserError) as error:
    open_source('shapes', path=tmp_path, size=None)
  assert (error.value.key, error.value.value) == ('data.size_px', None)


@pytest.fixture
def scored(tmp_path):
  """Five images of 10 to 50 px, 100 px wide; the first two have scores."""
  for i in range(1, 6):
    Image.new('RGB', (100, 10 * i), 'red').save(tmp_path / f'{i}.png')
    scores = {'prompt': 20.0 + i, 'long': 30.0, 'bad': 10.0} if i < 3 else {}
    (tmp_path / f'{i}.json').write_text(
      json.dumps(
        {
          'captions': {'prompt': f'p{i}', 'long': f'l{i}', 'bad': f'b{i}'},
          'scores': scores,
        }
      )
    )
  return tmp_path


def test_a_record_has_the_caption_that_the_rule_chooses(scored):
  source = open_source('folder', path=scored, size=4, cache=None)
  assert isinstance(source, DescribedSource)
  assert set(source[0]) == {'image', 'caption', 'index'}
  assert [source[i]['caption'] for i in range(5)] == [
    'l1',
    'l2',
    'p3',
    'p4',
    'p5',
  ]
  rule = CaptionRule('uniform')
  draws = lambda seed: [
    open_source(
      'folder',
      path=scored,
      size=4,
      seed=seed,
      rule=rule,
      cache=None,
    ).at(0, draw)['caption']
    for draw in range(30)
  ]
  assert draws(0) == draws(0) != draws(1)
  assert set(draws(0)) == {'p1', 'l1', 'b1'}


def test_filters_keep_good_and_unknown_records(scored, caplog):
  options = dict(path=scored, size=4, cache=None)
  with caplog.at_level('INFO', 'absl'):
    source = open_source(
      'folder', **options, min_score=22.0, min_size_px=20, max_aspect_ratio=4.0
    )
  assert [source[i]['index'] for i in range(len(source))] == [2, 3, 4]
  assert source.sizes()[0].tolist() == [30, 100]
  assert (
    'Kept 3 of 5 records: 1 has a score below 22, 1 has a side shorter '
    'than 20 px, 2 have an aspect ratio above 4.'
  ) in caplog.text
  with pytest.raises(UserError) as error:
    open_source('folder', **options, min_size_px=64)
  assert error.value.key == 'data'
  assert error.value.value == {'min_size_px': 64}
  assert [int(n) for n in re.findall(r'\d+', str(error.value))] == [5, 5, 64]


@pytest.mark.parametrize('kind', ['webdataset', 'parquet', 'arrayrecord'])
def test_sources_of_many_files_open_by_name_and_feed_the_pipeline(
  kind, tmp_path
):
  rows = [{'image': encoded(), 'caption': text} for text in ('zero', 'one')]
  if kind == 'webdataset':
    (tmp_path / 'a.tar').write_bytes(
      tar(*sample('0', 'zero'), *sample('1', 'one'))
    )
  elif kind == 'parquet':
    parquet_file(tmp_path / 'a.parquet', rows)
  else:
    array_record(tmp_path / 'a.array_record', rows)
  source = open_source(kind, path=tmp_path, size=8, cache=tmp_path / 'index')
  batch = next(iter(batches(source, batch_size=2, seed=0)))
  assert batch['image'].shape == (2, 8, 8, 3)
  assert set(batch['caption'].tolist()) == {'zero', 'one'}


def images(kind, path, count=4):
  """A folder with a given number of images in as many files."""
  path.mkdir()
  for i in range(count):
    row = {'image': encoded(3, 4 + i), 'caption': 'a cat'}
    if kind == 'folder':
      (path / f'{i}.png').write_bytes(row['image'])
      (path / f'{i}.json').write_text(
        json.dumps({'prompt': 'a cat', 'scores': {'prompt': 30.0 + i}})
      )
    elif kind == 'webdataset':
      (path / f'{i}.tar').write_bytes(tar((f'{i}.png', row['image'])))
      (path / f'{i}_more.json').write_text(
        json.dumps({str(i): {'prompt': 'a cat'}})
      )
    elif kind == 'parquet':
      parquet_file(path / f'{i}.parquet', [row])
    else:
      array_record(path / f'{i}.array_record', [row])
  return path


@pytest.mark.parametrize(
  'kind, broken, function',
  [
    ('folder', '2.png', 'read'),
    ('folder', '2.json', 'read'),
    ('webdataset', '2_more.json', 'read'),
    ('webdataset', '2.tar', 'open_ahead'),
    ('parquet', '2.parquet', 'open_at_random'),
  ],
)
def test_temporary_failures_are_not_cached(
  kind, broken, function, tmp_path, monkeypatch
):
  path = images(kind, tmp_path / 'data')

  def facts():
    source = open_source(
      kind, path=path, size=None, max_bad_fraction=1.0, cache=tmp_path / 'index'
    )
    return source.sizes().tolist(), np.nan_to_num(source.scores()).tolist()

  works = getattr(files, function)

  def fails(file, *places):
    if file.endswith(broken):
      raise OSError('503')
    return works(file, *places)

  monkeypatch.setattr(files, function, fails)
  before = facts()
  monkeypatch.setattr(files, function, works)
  assert facts() != before
  assert len(facts()[0]) == 4 and [3, 6] in facts()[0]


@pytest.mark.parametrize(
  'kind, suffix',
  [
    ('webdataset', 'tar'),
    ('parquet', 'parquet'),
    ('arrayrecord', 'array_record'),
  ],
)
def test_a_missing_file_of_a_list_is_a_bad_record(kind, suffix, tmp_path):
  path = images(kind, tmp_path / 'data') / f'{{0..5}}.{suffix}'
  source = open_source(
    kind, path=path, size=8, max_bad_fraction=1.0, cache=None
  )
  assert len(source) == 4
  assert list(source.source.bad.reasons) == [
    f'{tmp_path}/data/{i}.{suffix}' for i in (4, 5)
  ]
  with pytest.raises(UserError) as error:
    open_source(kind, path=path, size=8, cache=None)
  assert error.value.key == 'data.max_bad_fraction'
  assert error.value.value[0] == f'{tmp_path}/data/4.{suffix}'


def test_user_errors_are_reported(prepared, tmp_path):
  with pytest.raises(UserError) as error:
    open_source('webdata', path=tmp_path, size=8)
  assert error.value.key == 'data.source'
  assert error.value.value == 'webdata'
  assert error.value.allowed == KINDS
  with pytest.raises(UserError) as error:
    open_source('tfds', path=tmp_path, size=8)
  assert error.value.key == 'data.path'
  assert error.value.value == str(tmp_path)
  assert error.value.allowed == ('features.json',)
  with pytest.raises(UserError) as error:
    open_source('tfds', path=prepared, size=8, split='test')
  assert (error.value.key, error.value.value) == ('split', 'test')
  assert error.value.allowed == ['train', 'heldout']
  with pytest.raises(UserError) as error:
    open_source('folder', path=tmp_path, size=0)
  assert (error.value.key, error.value.value) == ('data.size_px', 0)


@pytest.mark.parametrize(
  'key', ['pythonClassName', 'python_class_name', 'type']
)
def test_modules_named_in_prepared_data_are_not_imported(
  prepared, tmp_path, monkeypatch, key
):
  (tmp_path / f'imported_{key}.py').write_text(
    f'open({str(tmp_path / "canary")!r}, "w").close()'
  )
  monkeypatch.syspath_prepend(tmp_path)
  data = shutil.copytree(prepared, tmp_path / 'data')
  content = json.loads((data / 'features.json').read_text())
  if key == 'type':  # The older form.
    content = {key: f'imported_{key}.Text', 'content': {}}
  else:
    content['featuresDict']['features']['caption'] = {
      key: f'imported_{key}.Text',
      'text': {},
    }
  (data / 'features.json').write_text(json.dumps(content))
  with pytest.raises(UserError):
    open_source('tfds', path=data, size=8)
  assert not (tmp_path / 'canary').exists()


@pytest.mark.parametrize('name', ['features.json', 'dataset_info.json'])
@pytest.mark.parametrize('text', ['', '{', '[]', '{"a": ' * 5_000, '{"b": 1}'])
def test_damaged_descriptions_of_prepared_data_are_user_errors(
  prepared, tmp_path, name, text
):
  data = shutil.copytree(prepared, tmp_path / 'data')
  (data / name).write_text(text)
  with pytest.raises(UserError) as error:
    open_source('tfds', path=data, size=8)
  assert str(data) in str(error.value)
  assert error.value.key in ('data.path', 'features.json', '')


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_prepared_data_without_random_access_are_a_user_error(
  prepared, tmp_path
):
  data = shutil.copytree(prepared, tmp_path / 'data')
  edit(data / 'dataset_info.json', fileFormat='tfrecord')
  with pytest.raises(UserError) as error:
    open_source('tfds', path=data, size=8)
  assert error.value.key == 'data.path'
  assert error.value.allowed == ('array_record',)


def test_prepared_data_whose_image_is_a_text_are_a_user_error(
  prepared, tmp_path
):
  data = shutil.copytree(prepared, tmp_path / 'data')
  content = json.loads((data / 'features.json').read_text())['featuresDict']
  content['features']['image'] = content['features']['caption']
  edit(data / 'features.json', featuresDict=content)
  with pytest.raises(UserError) as error:
    open_source('tfds', path=data, size=8)
  assert error.value.key == 'features.image'
