"""Files that are left out are counted and named, by reason."""

import logging
import re

import pytest
from written import array_record, encoded, parquet_file, sample, tar

from sana_jax.data.describe import description
from sana_jax.data.folder import FolderSource
from sana_jax.data.remarks import Remarks
from sana_jax.data.sources import open_source
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


def opened(kind, folder):
  return open_source(kind, path=folder, size=None, cache='')


def counts(source):
  return source.source.remarks.counts


def put(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.suffix.lower() == '.txt'
    path.write_bytes(b'a cat' if text else encoded())


def test_a_folder_names_files_that_belong_to_no_image(tmp_path):
  put(tmp_path, 'a.png', 'a.txt', 'b.heic', 'c.HEIC', 's/d.psd', 'notes.txt')
  put(tmp_path, '._a.png', '.DS_Store', 'LICENSE', 'a.png.txt')
  source = opened('folder', tmp_path)
  assert counts(source) == {
    'hidden files are not read': 2,
    'files without a suffix are not read': 1,
    'no image of the same name is beside it': 2,
    'files of .heic are not read': 2,
    'files of .psd are not read': 1,
  }
  assert len(source) == 1


def test_captions_with_upper_case_suffixes_are_read(tmp_path):
  put(tmp_path, 'IMG_0.JPG', 'IMG_0.TXT', 'IMG_1.jpg')
  (tmp_path / 'IMG_1.JSON').write_text('{"prompt": "a dog"}')
  source = opened('folder', tmp_path)
  assert [source[i]['caption'] for i in range(2)] == ['a cat', 'a dog']


def test_a_tar_names_members_that_belong_to_no_sample(tmp_path):
  (tmp_path / '0.tar').write_bytes(
    tar(
      *sample('a', 'one'),
      ('a.cls', '5'),
      ('a.jpg', encoded(kind='jpeg')),
      ('a.seg.png', encoded()),
      ('._a.png', 'x'),
      ('b.heic', b'x'),
      ('b.txt', 'text'),
      *[(f'{i}.png', encoded()) for i in range(40)],
      *[(f'{i}.txt', 'x') for i in range(40)],
    )
  )
  (tmp_path / '1.tar.gz').write_bytes(b'x')
  source = opened('webdataset', tmp_path)
  reasons = counts(source)
  assert reasons.pop('another image of the sample is used') == 1
  (dotted,) = [reason for reason in reasons if 'several dots' in reason]
  assert reasons.pop(dotted) == 1
  assert reasons == {
    'files of .cls are not read': 1,
    'hidden files are not read': 1,
    'files of .heic are not read': 1,
    'files of .gz are not read': 1,
  }
  assert list(source.source.bad.reasons) == [f'{tmp_path}/0.tar: b']


def test_members_with_dots_are_samples_if_they_have_a_caption(tmp_path):
  (tmp_path / '0.tar').write_bytes(
    tar(*sample('d.x/2023.01.02', 'one'), *sample('d.x/2023.01.03', 'two'))
  )
  source = opened('webdataset', tmp_path)
  assert [source[i]['caption'] for i in range(2)] == ['one', 'two']
  assert source.name(1) == f'{tmp_path}/0.tar: d.x/2023.01.03'
  assert not counts(source)


def test_the_index_of_a_tar_keeps_its_remarks(tmp_path):
  (tmp_path / '0.tar').write_bytes(
    tar(*sample('a', 'x'), ('caf\udce9.gif2', ''))
  )
  for _ in range(2):
    source = open_source(
      'webdataset', path=tmp_path / '0.tar', size=None, cache=tmp_path / 'c'
    )
    assert counts(source) == {'files of .gif2 are not read': 1}


def test_files_of_other_kinds_beside_tables_are_named(tmp_path):
  row = {'image': encoded(), 'caption': 'x'}
  (tmp_path / 'p').mkdir()
  parquet_file(tmp_path / 'p/a.parquet', [row])
  (tmp_path / 'r').mkdir()
  array_record(tmp_path / 'r/a.array_record', [row])
  for kind, folder in {'parquet': 'p', 'arrayrecord': 'r'}.items():
    put(tmp_path / folder, 'b.pq', 'c.pq')
    source = opened(kind, tmp_path / folder)
    assert counts(source) == {'files of .pq are not read': 2}


@pytest.mark.parametrize(
  'kind', ['folder', 'webdataset', 'parquet', 'arrayrecord']
)
def test_a_source_without_a_record_reports_what_it_left_out(kind, tmp_path):
  put(tmp_path, 'a.heic', 'b.heic')
  with pytest.raises(UserError) as error:
    opened(kind, tmp_path)
  assert error.value.key == 'data.path'
  assert error.value.value == str(tmp_path)
  assert re.search(r'\.heic .*\(2\)', str(error.value))


def test_a_description_has_a_line_for_each_reason(tmp_path):
  put(tmp_path, 'a.png', 'a.txt', 'b.heic', 'c.heic')
  lines = list(description(opened('folder', tmp_path), 1))
  assert '2: files of .heic are not read; the first is b.heic' in lines


def test_a_reason_is_logged_once(caplog):
  remarks = Remarks()
  with caplog.at_level(logging.WARNING):
    remarks.add('it is odd', 'a', 3)
    remarks.add('it is odd', 'b')
  assert [r.getMessage() for r in caplog.records] == [
    'a: it is odd (and 2 more).'
  ]
  assert (remarks.counts, remarks.first) == (
    {'it is odd': 4},
    {'it is odd': 'a'},
  )


@pytest.mark.parametrize(
  'suffix', ['bmp', 'gif', 'tif', 'tiff', 'jfif', 'avif', 'jpeg', 'webp']
)
def test_every_format_is_read_in_folders_and_tars(suffix, tmp_path):
  kinds = {'tif': 'tiff', 'jfif': 'jpeg'}
  image = encoded(16, 24, kind=kinds.get(suffix, suffix))
  (tmp_path / f'a.{suffix}').write_bytes(image)
  (tmp_path / 'a.txt').write_text('x')
  (tmp_path / '0.tar').write_bytes(
    tar((f'a.{suffix.upper()}', image), ('a.txt', 'x'))
  )
  for source in (
    FolderSource(tmp_path, None),
    opened('webdataset', tmp_path / '0.tar').source,
  ):
    assert source[0]['image'].shape == (16, 24, 3)
    assert abs(source[0]['image'].astype(int) - (255, 0, 0)).max() < 8
    assert source.sizes().tolist() == [[16, 24]]
