"""Parquet files written by pyarrow."""

import io
import logging

import fsspec
from ml_collections import ConfigDict
import numpy as np
from pyarrow import parquet
import pytest
from written import encoded, failures, noisy, parquet_file

from sana_jax.data import files, sources
from sana_jax.data.parquet import Columns, NAMES, ParquetSource
from sana_jax.errors import UserError
from sana_jax.tasks import common

ROWS = [
  {
    'image': encoded(7, 9),
    'caption': 'zero',
    'long': 'a longer zero',
    'height': 70,
    'width': 90,
    's0': 21.5,
    's1': 30.0,
  },
  {
    'image': encoded(),
    'caption': 'one',
    'long': None,
    'height': 12,
    'width': 20,
    's0': 28.0,
    's1': None,
  },
  {
    'image': encoded(),
    'caption': 'two',
    'long': 'longer',
    'height': 12,
    'width': 20,
    's0': None,
    's1': None,
  },
]


WIDE_TALL = (20, 40), (40, 20)  # Height and width.


def write(path, rows=ROWS, **options):
  return parquet_file(path, rows, **options)


def opened(path, columns=None, **options):
  return ParquetSource(path, None, columns, **options)


def texts(source):
  return [source[i]['caption'] for i in range(len(source))]


@pytest.mark.parametrize('path', ['', '*.parquet', '{a,b}.parquet'])
def test_rows_are_read_file_after_file(tmp_path, path):
  write(tmp_path / 'a.parquet', row_group_size=2)
  write(tmp_path / 'b.parquet', ROWS[:1])
  source = opened(tmp_path / path)
  assert texts(source) == ['zero', 'one', 'two', 'zero']
  assert [source[i]['index'] for i in (3, 1)] == [3, 1]
  assert source[3]['image'].shape == (7, 9, 3)
  assert ParquetSource(tmp_path, 5)[0]['image'].shape == (5, 5, 3)


def test_only_the_row_group_of_a_record_is_read(tmp_path, monkeypatch):
  write(tmp_path / 'a.parquet', ROWS * 4, row_group_size=3)
  source = opened(tmp_path)
  groups = []
  read = parquet.ParquetFile.read_row_group
  monkeypatch.setattr(
    parquet.ParquetFile,
    'read_row_group',
    lambda self, i, columns: (
      groups.append((i, columns)) or read(self, i, columns=columns)
    ),
  )
  source[4], source[3], source[11]
  wanted = ['image', 'caption']
  assert groups == [(1, wanted), (3, wanted)]


@pytest.mark.long
def test_a_footer_is_read_once(tmp_path, monkeypatch):
  for i in range(300):
    write(tmp_path / f'{i:03d}.parquet', ROWS[:1])
  read, footers = parquet.read_metadata, []
  monkeypatch.setattr(
    parquet, 'read_metadata', lambda file: footers.append(file) or read(file)
  )
  source = opened(tmp_path)
  assert texts(source) == ['zero'] * 300
  source.sizes()
  assert len(footers) == 300


def test_columns_give_captions_scores_and_sizes(tmp_path):
  write(tmp_path / 'a.parquet')
  source = opened(tmp_path, Columns(captions='caption, long', scores='s0,s1'))
  assert source[0]['captions'] == {'prompt': 'zero', 'long': 'a longer zero'}
  assert source[0]['scores'] == {'prompt': 21.5, 'long': 30.0}
  assert source[1]['captions'] == {'prompt': 'one'}
  assert source[1]['scores'] == {'prompt': 28.0}
  np.testing.assert_array_equal(source.sizes(), [[70, 90], [12, 20], [12, 20]])
  np.testing.assert_array_equal(
    source.scores(), np.float32([21.5, 28.0, np.nan])
  )


def test_a_row_without_the_prompt_s_score_has_the_best_one(tmp_path):
  write(
    tmp_path / 'a.parquet',
    [
      {
        'image': b'',
        'caption': 'x',
        'a': 'y',
        'b': 'z',
        's': None,
        't': 20.0,
        'u': '31.5',
      },
      {
        'image': b'',
        'caption': 'x',
        'a': 'y',
        'b': 'z',
        's': 1.0,
        't': None,
        'u': None,
      },
    ],
  )
  source = opened(tmp_path, Columns(captions='caption,a,b', scores='s,t,u'))
  np.testing.assert_array_equal(source.scores(), np.float32([31.5, 1]))


def test_without_size_columns_the_headers_are_read(tmp_path):
  rows = [{'image': row['image'], 'caption': 'x'} for row in ROWS]
  write(tmp_path / 'a.parquet', [*rows, {'image': b'no', 'caption': 'x'}])
  np.testing.assert_array_equal(
    opened(tmp_path).sizes(), [[7, 9], [12, 20], [12, 20], [0, 0]]
  )


@pytest.mark.parametrize(
  'null',
  [
    {'image': None},
    {'image': {'bytes': None, 'path': None}},
    {'image': {'bytes': b'', 'path': ''}},
  ],
)
def test_a_null_image_has_no_bucket_and_changes_no_other(null, tmp_path):
  wide, tall = ({'bytes': encoded(*size), 'path': ''} for size in WIDE_TALL)
  rows = [{'image': wide}, null, {'image': tall}, {'image': wide}]
  config = ConfigDict(
    {'data': {'size_px': 512}, 'inputs': {'aspect_ratios': True}}
  )
  found = []
  for name, kept in (('all', rows), ('good', [rows[i] for i in (0, 2, 3)])):
    (tmp_path / name).mkdir()
    write(tmp_path / name / 'a.parquet', [x | {'caption': 'x'} for x in kept])
    source = sources.open_source(
      'parquet', path=tmp_path / name, size=None, cache=None
    )
    found.append(common.bucket_of_records(config, source, 32).tolist())
  with_null, without = found
  assert with_null == [without[0], -1, *without[1:]]
  # The ratios of these sizes are in the published table.
  sizes = common.bucket_sizes(config, 32)
  assert [sizes[i] for i in without] == [(352, 704), (704, 352), (352, 704)]


def test_hugging_face_s_images_and_paths_are_read(tmp_path):
  (tmp_path / 'i').mkdir()
  (tmp_path / 'i' / 'x.png').write_bytes(encoded(3, 4))
  write(
    tmp_path / 'a.parquet',
    [
      {
        'image': {'bytes': encoded(5, 6), 'path': 'ignored.png'},
        'caption': 'x',
      },
      {'image': {'bytes': None, 'path': 'i/x.png'}, 'caption': 'y'},
    ],
  )
  write(tmp_path / 'b.parquet', [{'image': 'i/x.png', 'caption': 'z'}])
  source = opened(tmp_path)
  assert [source[i]['image'].shape for i in range(3)] == [
    (5, 6, 3),
    (3, 4, 3),
    (3, 4, 3),
  ]


def test_damaged_rows_raise_by_file_and_row(tmp_path):
  image = noisy()
  write(
    tmp_path / 'a.parquet',
    [
      {'image': image, 'caption': 'x'},
      {'image': image[:2000], 'caption': 'x'},
      {'image': image, 'caption': ' '},
      {'image': None, 'caption': 'x'},
    ],
  )
  named = failures(opened(tmp_path))
  at = lambda row: f'{tmp_path}/a.parquet: row {row} of row group 0'
  assert set(named) == {at(1), at(2), at(3)}
  assert named[at(2)] == 'it has no caption'
  assert named[at(3)] == 'it has no image'


def test_a_damaged_row_group_affects_only_its_rows(tmp_path):
  path = write(
    tmp_path / 'a.parquet',
    [{'image': noisy(seed=i), 'caption': str(i)} for i in range(6)],
    row_group_size=2,
    compression='zstd',
    use_dictionary=False,
  )
  start = parquet.read_metadata(path).row_group(1).column(0).data_page_offset
  content = bytearray(path.read_bytes())
  content[start : start + 2000] = bytes(2000)
  path.write_bytes(content)
  source = opened(tmp_path)
  assert set(failures(source)) == {
    f'{path}: row {row} of row group 1' for row in (0, 1)
  }
  np.testing.assert_array_equal(
    source.sizes(), [[64, 96]] * 2 + [[0, 0]] * 2 + [[64, 96]] * 2
  )


def test_a_truncated_file_is_skipped_by_name(tmp_path):
  for name in 'abc':
    write(tmp_path / f'{name}.parquet')
  (tmp_path / 'b.parquet').write_bytes(
    (tmp_path / 'b.parquet').read_bytes()[:-100]
  )
  source = opened(tmp_path, max_bad_fraction=0.2)
  assert texts(source) == ['zero', 'one', 'two'] * 2
  assert list(source.bad.reasons) == [f'{tmp_path}/b.parquet']


def test_a_missing_column_is_reported_with_the_existing_ones(tmp_path):
  write(tmp_path / 'a.parquet')
  with pytest.raises(UserError) as error:
    opened(tmp_path, Columns(image='jpg', captions='caption,text'))
  assert str(tmp_path / 'a.parquet') in str(error.value)
  assert error.value.key == 'data.columns'
  assert error.value.value == ['jpg', 'text']
  assert error.value.allowed == [
    *('image', 'caption', 'long', 'height', 'width', 's0', 's1')
  ]


@pytest.mark.parametrize(
  'columns, key, value',
  [
    (Columns(captions=''), 'captions', ''),
    (Columns(captions='a', scores='b,c'), 'scores', 'b,c'),
  ],
)
def test_inconsistent_columns_are_reported(tmp_path, columns, key, value):
  with pytest.raises(UserError) as error:
    opened(tmp_path, columns)
  assert error.value.key == f'data.columns.{key}'
  assert error.value.value == value


def test_an_empty_source_is_reported(tmp_path):
  with pytest.raises(UserError) as error:
    opened(tmp_path / '*.parquet')
  assert error.value.key == 'data.path'
  assert error.value.value == f'{tmp_path}/*.parquet'
  assert error.value.allowed == NAMES
  (tmp_path / 'a.parquet').write_bytes(b'PAR1')
  with pytest.raises(UserError) as error:
    opened(tmp_path, max_bad_fraction=1.0)
  assert error.value.key == 'data.path'
  assert error.value.value == str(tmp_path)
  assert error.value.allowed != NAMES


def test_large_row_groups_cause_a_warning(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr('sana_jax.data.parquet._LARGE_GROUP', 1000)
  write(tmp_path / 'a.parquet', [{'image': noisy(), 'caption': 'x'}])
  with caplog.at_level(logging.WARNING):
    opened(tmp_path)
  assert 'write the Parquet files with a smaller row_group_size' in caplog.text


def test_remote_files_are_read(tmp_path):
  path = write(tmp_path / 'a.parquet', row_group_size=1)
  memory = fsspec.filesystem('memory')
  memory.pipe_file('/data/x/a.parquet', path.read_bytes())
  try:
    source = opened('memory://data')
    assert texts(source) == ['zero', 'one', 'two']
    assert source.sizes()[0].tolist() == [70, 90]
  finally:
    memory.store.clear()


def test_failed_reads_are_repeated_and_damaged_rows_are_not(
  tmp_path, monkeypatch
):
  (tmp_path / 'data').mkdir()
  path = write(
    tmp_path / 'data/a.parquet',
    [{'image': noisy(seed=i), 'caption': str(i)} for i in range(4)],
    row_group_size=2,
    compression='zstd',
    use_dictionary=False,
  )
  start = parquet.read_metadata(path).row_group(1).column(0).data_page_offset
  content = bytearray(path.read_bytes())
  content[start : start + 2000] = bytes(2000)
  path.write_bytes(content)
  source = opened(tmp_path / 'data', cache=tmp_path / 'index')

  class Throttled(io.FileIO):
    def read(self, *size):
      raise RuntimeError('503')

  monkeypatch.setattr(files, 'open_at_random', Throttled)
  assert not source.sizes().any()
  monkeypatch.undo()
  sizes = [[64, 96]] * 2 + [[0, 0]] * 2
  np.testing.assert_array_equal(source.sizes(), sizes)
  monkeypatch.setattr(files, 'open_at_random', None)
  np.testing.assert_array_equal(source.sizes(), sizes)
