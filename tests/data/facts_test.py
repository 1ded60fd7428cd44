"""Captions, scores and sizes are found by one rule in every source."""

import json
import logging

import numpy as np
import pytest
from written import array_record, encoded, failures, parquet_file, tar

from sana_jax.data import facts
from sana_jax.data.parquet import Columns, ParquetSource
from sana_jax.data.sources import open_source

pytestmark = pytest.mark.fast


def written(kind, folder, samples, image=None):
  """Writes {key: {suffix: content}} with an image each, as folder or tar."""
  folder.mkdir(exist_ok=True)
  members = [
    (f'{key}.{suffix}', content)
    for key, files in samples.items()
    for suffix, content in {'png': image or encoded(12, 20), **files}.items()
  ]
  if kind == 'webdataset':
    (folder / '0.tar').write_bytes(tar(*members))
    return folder
  for name, content in members:
    if not isinstance(content, bytes):
      content = (
        content if isinstance(content, str) else json.dumps(content)
      ).encode()
    (folder / name).write_bytes(content)
  return folder


def opened(kind, folder, **options):
  """The source itself, without the choice of a caption."""
  return open_source(kind, path=folder, size=None, cache='', **options).source


FILES = pytest.mark.parametrize('kind', ['folder', 'webdataset'])
FACTS = {'height': 700, 'width': 900, 'scores': {'prompt': 21.5}}


@FILES
def test_a_caption_in_txt_and_facts_in_json_are_one_record(kind, tmp_path):
  source = opened(
    kind,
    written(
      kind,
      tmp_path / 'd',
      {
        'a': {'txt': 'from text', 'json': FACTS},
        'b': {'txt': '', 'json': {'prompt': 'from json', **FACTS}},
        'c': {'json': {'captions': {'long': 'longer'}}, 'txt': 'short'},
      },
    ),
  )
  found = [source[i] for i in range(3)]
  assert [r['captions'] for r in found] == [
    {'prompt': 'from text'},
    {'prompt': 'from json'},
    {'prompt': 'short', 'long': 'longer'},
  ]
  assert [r['scores'] for r in found] == [FACTS['scores']] * 2 + [{}]
  np.testing.assert_array_equal(
    source.sizes(), [[700, 900], [700, 900], [12, 20]]
  )
  np.testing.assert_array_equal(
    source.scores(), np.float32([21.5, 21.5, np.nan])
  )
  assert not source.remarks.counts


@FILES
def test_conflicts_are_counted_and_logged_once(kind, tmp_path, caplog):
  folder = written(
    kind,
    tmp_path / 'd',
    {
      key: {'txt': f'text {key}', 'json': {'prompt': 'json', **FACTS}}
      for key in 'abc'
    },
  )
  source = opened(kind, folder)
  with caplog.at_level(logging.WARNING):
    records = [source[i] for i in range(3)]
  assert [r['caption'] for r in records] == ['text a', 'text b', 'text c']
  # The score is that of the other text.
  assert [r['scores'] for r in records] == [{}] * 3
  assert np.isnan(source.scores()).all()
  assert list(source.remarks.counts.values()) == [3]
  assert caplog.text.count('its files differ') == 1


@FILES
def test_texts_that_differ_in_blanks_agree(kind, tmp_path):
  source = opened(
    kind,
    written(
      kind,
      tmp_path / 'd',
      {'a': {'txt': 'a  cat\n', 'json': {'caption': 'a cat', **FACTS}}},
    ),
  )
  assert source[0]['scores'] == FACTS['scores']
  assert not source.remarks.counts


@FILES
@pytest.mark.parametrize(
  'damaged', [{'json': '{"prompt": ', 'txt': 'x'}, {'txt': b'caf\xe9'}]
)
def test_a_damaged_file_beside_a_caption_is_ignored_with_a_remark(
  kind, damaged, tmp_path
):
  source = opened(
    kind,
    written(kind, tmp_path / 'd', {'a': {'json': {'prompt': 'x'}} | damaged}),
  )
  assert source[0]['caption'] == 'x'
  assert list(source.remarks.counts.values()) == [1]


def test_sidecars_are_used_before_the_files_of_a_sample(tmp_path):
  folder = written(
    'webdataset',
    tmp_path / 'd',
    {'a': {'txt': 'short', 'json': {'vila': 'long', **FACTS}}},
  )
  (folder / '0_vila_clip.json').write_text(json.dumps({'a': {'vila': 30}}))
  (folder / '0_more.json').write_text(json.dumps({'a': {'prompt': 'better'}}))
  source = opened('webdataset', folder)
  assert source[0]['captions'] == {'prompt': 'better', 'vila': 'long'}
  assert source[0]['scores']['vila'] == 30


MARK = b'\xef\xbb\xbf'


def with_mark(kind, folder):
  """A caption with a byte order mark, in each source."""
  folder.mkdir()
  row = {'image': encoded(), 'caption': '\ufeffa cat'}
  match kind:
    case 'parquet':
      parquet_file(folder / 'a.parquet', [row])
    case 'arrayrecord':
      array_record(folder / 'a.array_record', [row])
    case 'binary column':
      parquet_file(folder / 'a.parquet', [row | {'caption': MARK + b'a cat'}])
    case _:
      written(kind.partition(' ')[0], folder, {'a': MARKED[kind]})
  return {'binary column': 'parquet'}.get(kind, kind.partition(' ')[0])


MARKED = {
  'folder txt': {'txt': MARK + b'a cat'},
  'folder json': {'json': MARK + b'{"prompt": "\\ufeffa cat"}'},
  'webdataset txt': {'txt': MARK + b'a cat\n'},
  'webdataset json': {'json': MARK + b'{"prompt": "\\ufeffa cat"}'},
}


@pytest.mark.parametrize(
  'kind', [*MARKED, 'parquet', 'arrayrecord', 'binary column']
)
def test_a_byte_order_mark_is_no_part_of_a_caption(kind, tmp_path):
  opener = with_mark(kind, tmp_path / 'd')
  assert opened(opener, tmp_path / 'd')[0]['captions'] == {'prompt': 'a cat'}


@FILES
def test_utf_16_captions_are_named(kind, tmp_path):
  source = opened(
    kind, written(kind, tmp_path / 'd', {'a': {'txt': 'x'.encode('utf-16')}})
  )
  (reason,) = failures(source).values()
  assert reason == 'it is UTF-16 or UTF-32; save it as UTF-8'


LIST = ['a cat', 'a grey cat']


def listed(kind, folder):
  folder.mkdir()
  content = {'caption': LIST, 'scores': [20.0, 30.0]}
  match kind:
    case 'parquet':
      row = {'image': encoded(), 'caption': LIST, 's': [20.0, 30.0]}
      parquet_file(folder / 'a.parquet', [row])
      return ParquetSource(folder, None, Columns(scores='s'))
    case 'arrayrecord':
      row = {'image': encoded(), **content}
      array_record(folder / 'a.array_record', [row])
    case _:
      written(kind, folder, {'a': {'json': content}})
  return opened(kind, folder)


@pytest.mark.parametrize(
  'kind', ['folder', 'webdataset', 'arrayrecord', 'parquet']
)
def test_captions_that_are_lists_are_several_captions(kind, tmp_path):
  source = listed(kind, tmp_path / 'd')
  assert source[0]['captions'] == {'prompt': 'a cat', '1': 'a grey cat'}
  assert source[0]['scores'] == {'prompt': 20, '1': 30}
  assert source.scores().tolist() == [20]


def test_lists_of_several_columns_have_different_names(tmp_path):
  parquet_file(
    tmp_path / 'a.parquet',
    [
      {
        'image': encoded(),
        'caption': LIST,
        'long': ['b', 'c'],
        'by': {'vila': 'd', 'none': None},
      }
    ],
  )
  source = ParquetSource(tmp_path, None, Columns(captions='caption,long,by'))
  assert source[0]['captions'] == {
    'prompt': 'a cat',
    '1': 'a grey cat',
    'long': 'b',
    'long.1': 'c',
    'vila': 'd',
  }


def test_arrays_are_lists_of_captions():
  # As TFDS returns a sequence of texts.
  named = facts.named('prompt', np.asarray([b'a', b'b'], object))
  assert facts.usable(named) == {'prompt': 'a', '1': 'b'}


def test_one_null_image_leaves_the_facts_of_other_rows(tmp_path):
  row = lambda **more: {'caption': 'x', 's': 20.0, **more}
  path = parquet_file(
    tmp_path / 'a.parquet',
    [
      row(image=encoded(7, 9)),
      row(image=None),
      row(image=b'broken'),
      row(image=encoded(12, 20), s=None),
      row(image='', s=30.0) | {'image': None},
    ],
  )
  source = ParquetSource(tmp_path, None, Columns(scores='s'))
  np.testing.assert_array_equal(
    source.sizes(), [[7, 9], [0, 0], [0, 0], [12, 20], [0, 0]]
  )
  np.testing.assert_array_equal(
    source.scores(), np.float32([20, 20, 20, np.nan, 30])
  )
  assert set(failures(source)) == {
    f'{path}: row {row} of row group 0' for row in (1, 2, 4)
  }
  kept = open_source(
    'parquet', path=tmp_path, size=None, cache='', min_size_px=10
  )
  assert [kept.name(i) for i in range(len(kept))] == [
    f'{path}: row {row} of row group 0' for row in (1, 2, 3, 4)
  ]


@pytest.mark.parametrize('missing', [None, 0, -5, 'n/a'])
def test_a_missing_height_falls_back_to_the_header(missing, tmp_path):
  rows = [
    {'image': encoded(7, 9), 'caption': 'x', 'height': side, 'width': 90}
    for side in (70, missing)
  ]
  if isinstance(missing, str):
    rows = [row | {'height': str(row['height'])} for row in rows]
  expected = [[70, 90], [7, 9]]
  (tmp_path / 'p').mkdir()
  parquet_file(tmp_path / 'p/a.parquet', rows)
  (tmp_path / 'r').mkdir()
  array_record(tmp_path / 'r/a.array_record', rows)
  samples = {
    key: {'json': {k: v for k, v in row.items() if k != 'image'}}
    for key, row in zip('ab', rows)
  }
  image = encoded(7, 9)
  for kind, path in {
    'parquet': tmp_path / 'p',
    'arrayrecord': tmp_path / 'r',
    'folder': written('folder', tmp_path / 'f', samples, image),
    'webdataset': written('webdataset', tmp_path / 't', samples, image),
  }.items():
    np.testing.assert_array_equal(
      opened(kind, path).sizes(), expected, err_msg=kind
    )


def test_one_record_without_an_image_keeps_its_score(tmp_path):
  array_record(
    tmp_path / 'a.array_record',
    [
      {'image': None, 'caption': 'x', 'scores': {'prompt': 20.0}},
      {'image': encoded(), 'caption': 'x', 'scores': {'prompt': 30.0}},
    ],
  )
  source = opened('arrayrecord', tmp_path)
  assert source.scores().tolist() == [20, 30]
  assert source.sizes().tolist() == [[0, 0], [12, 20]]
  assert list(failures(source)) == [f'{tmp_path}/a.array_record #0']
