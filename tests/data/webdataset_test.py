"""Tars written by tarfile, local and in fsspec's memory."""

import io
import json
import re
import tarfile

import fsspec
import numpy as np
import pytest
from written import encoded, failures, noisy, sample, tar

from sana_jax.data import files
from sana_jax.data.webdataset import WebDatasetSource
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


def opened(path, cache=None, **options):
  return WebDatasetSource(path, None, cache=cache, **options)


def texts(source):
  return [source[i]['caption'] for i in range(len(source))]


@pytest.fixture
def two(tmp_path):
  (tmp_path / 's-00.tar').write_bytes(
    tar(*sample('a/0', 'zero', height=7, width=9), *sample('a/1', 'one'))
  )
  (tmp_path / 's-01.tar').write_bytes(
    tar(
      (
        '2.json',
        {
          'prompt': 'two',
          'height': 700,
          'width': 900,
          'scores': {'prompt': 21.5},
        },
      ),
      ('2.JPG', encoded(kind='jpeg')),
      ('2.cls', '5'),
    )
  )
  return tmp_path


@pytest.mark.parametrize(
  'pattern', ['', '*.tar', 's-{00..01}.tar', 's-0{0,1}.tar']
)
def test_shards_are_read_in_the_order_of_their_names(two, pattern):
  source = opened(two / pattern if pattern else two)
  assert texts(source) == ['zero', 'one', 'two']
  assert [source[i]['index'] for i in range(3)] == [0, 1, 2]
  assert source[0]['image'].shape == (7, 9, 3)
  assert (source[1]['image'] == (255, 0, 0)).all()


def test_sizes_are_those_of_the_json_else_the_header_without_decoding(two):
  source = opened(two)
  np.testing.assert_array_equal(source.sizes(), [[7, 9], [12, 20], [700, 900]])
  np.testing.assert_array_equal(
    source.scores(), np.float32([np.nan, np.nan, 21.5])
  )


def test_images_are_scaled_to_the_given_size(two):
  assert WebDatasetSource(two, 5)[0]['image'].shape == (5, 5, 3)


def test_the_index_of_a_tar_is_cached_until_it_changes(two, monkeypatch):
  cache = two / 'cache'
  opened(two, cache)
  scanned = []
  ahead = files.open_ahead
  monkeypatch.setattr(
    files, 'open_ahead', lambda path: scanned.append(path) or ahead(path)
  )
  assert texts(opened(two, cache)) == ['zero', 'one', 'two']
  assert not scanned
  (two / 's-01.tar').write_bytes(tar(*sample('3', 'a longer story')))
  assert texts(opened(two, cache)) == ['zero', 'one', 'a longer story']
  assert [path.rpartition('/')[2] for path in scanned] == ['s-01.tar']


def test_a_sample_is_one_ranged_read(two, monkeypatch):
  source = opened(two)
  ranges = []
  read = files.read
  monkeypatch.setattr(
    files, 'read', lambda *args: ranges.append(args[1:]) or read(*args)
  )
  source[0]
  ((start, end),) = ranges
  assert end - start < 2000 < (two / 's-00.tar').stat().st_size


def test_distant_members_are_read_separately(tmp_path):
  (tmp_path / 'x.tar').write_bytes(
    tar(
      ('0.txt', 'zero'),
      ('1.txt', 'one'),
      ('big.bin', bytes(2**17)),
      ('0.png', encoded()),
      ('1.png', encoded()),
    )
  )
  assert texts(opened(tmp_path)) == ['zero', 'one']


def test_names_in_capitals_are_read_like_others(tmp_path):
  (tmp_path / 'x.tar').write_bytes(
    tar(
      ('A.PNG', encoded(7, 9)),
      ('A.TXT', 'a'),
      ('B.Jpeg', encoded(kind='jpeg')),
      ('B.JSON', {'prompt': 'b', 'scores': {'prompt': 21.5}}),
    )
  )
  source = opened(tmp_path)
  assert texts(source) == ['a', 'b']
  np.testing.assert_array_equal(source.sizes(), [[7, 9], [12, 20]])
  np.testing.assert_array_equal(source.scores(), np.float32([np.nan, 21.5]))
  assert not source.remarks.summary()


def test_incomplete_samples_are_skipped_by_name(tmp_path, caplog):
  whole = [sample(str(i), 'x') for i in range(8)]
  (tmp_path / 'x.tar').write_bytes(
    tar(
      *[member for pair in whole for member in pair],
      ('mute.png', encoded()),
      ('blind.txt', 'text'),
    )
  )
  source = opened(tmp_path, max_bad_fraction=0.2)
  assert len(source) == 8
  assert source.bad.reasons == {
    f'{tmp_path}/x.tar: mute': 'no .txt or .json',
    f'{tmp_path}/x.tar: blind': 'no image',
  }
  with pytest.raises(UserError) as error:
    opened(tmp_path, max_bad_fraction=0.1)
  assert error.value.key == 'data.max_bad_fraction'
  assert error.value.value == [
    f'{tmp_path}/x.tar: blind',
    f'{tmp_path}/x.tar: mute',
  ]


def test_headers_that_declare_too_much_end_the_tar(tmp_path):
  image, text = sample('good', 'x')
  huge = tarfile.TarInfo('huge.png')
  huge.size = 2**62
  longer = tarfile.TarInfo('././@LongLink')
  longer.type = tarfile.GNUTYPE_LONGNAME
  header = lambda info: info.tobuf(tarfile.GNU_FORMAT)
  good = tar(image, text)[: -2 * tarfile.BLOCKSIZE].rstrip(b'\0')
  good += bytes(-len(good) % tarfile.BLOCKSIZE)
  for tail in (header(huge) + bytes(512), header(longer) * 2000):
    (tmp_path / 'x.tar').write_bytes(good + tail)
    source = opened(tmp_path, max_bad_fraction=1.0)
    assert texts(source) == ['x']
    assert any(
      name.startswith(f'{tmp_path}/x.tar') for name in source.bad.reasons
    )


def test_damaged_samples_raise_by_shard_and_key(tmp_path):
  image = noisy()
  (tmp_path / 'x.tar').write_bytes(
    tar(
      *sample('good', 'x'),
      ('cut.png', image[: len(image) // 2]),
      ('cut.txt', 'x'),
      ('odd.png', encoded()),
      ('odd.json', '{"prompt": '),
      ('deep.png', encoded()),
      ('deep.json', '[' * 10**5),
      ('huge.png', encoded()),
      ('huge.json', f'{{"prompt": "x", "seed": {"1" * 5000}}}'),
      ('half.png', encoded()),
      ('half.json', '{"prompt": "\\ud83d cat"}'),
      ('list.png', encoded()),
      ('list.json', '[1]'),
      ('null.png', encoded()),
      ('null.json', '{"prompt": null}'),
      ('latin.png', encoded()),
      ('latin.txt', b'caf\xe9'),
    )
  )
  source = opened(tmp_path)
  found = {
    name.rpartition(' ')[2]: reason for name, reason in failures(source).items()
  }
  assert set(found) == {
    'cut',
    'odd',
    'deep',
    'huge',
    'half',
    'list',
    'null',
    'latin',
  }
  assert found['list'] == 'the JSON is not an object'
  assert found['null'] == 'it has no caption'
  assert f'{tmp_path}/x.tar: cut' in failures(source)


@pytest.mark.parametrize(
  'cut, usable, reason',
  [
    (512 * 4, 1, 'no header or end at byte 2048'),  # Between two samples.
    (512 * 4 + 100, 1, 'no header or end at byte 2048'),  # In a header.
    (512 * 5 + 100, 1, 'unexpected end of data, after 2 samples'),
    (0, 0, 'not a tar, or a compressed one (empty file)'),
  ],
)
def test_a_truncated_tar_yields_the_samples_before_its_end(
  tmp_path, cut, usable, reason
):
  whole = tar(*sample('0', 'zero'), *sample('1', 'one'))
  (tmp_path / 'a.tar').write_bytes(whole[:cut])
  (tmp_path / 'b.tar').write_bytes(whole)
  source = opened(tmp_path, max_bad_fraction=1.0)
  assert texts(source) == ['zero', 'one'][:usable] + ['zero', 'one']
  bad = source.bad.reasons[f'{tmp_path}/a.tar']
  assert bad.startswith(reason)


def test_names_in_any_encoding_are_read(tmp_path):
  content = tar(*sample('cafX', 'latin'), *sample('caf\u00e9', 'utf8'))
  (tmp_path / 'a.tar').write_bytes(content)
  assert texts(opened(tmp_path)) == ['latin', 'utf8']
  with tarfile.open(
    tmp_path / 'b.tar', 'w', encoding='latin-1', format=tarfile.GNU_FORMAT
  ) as archive:
    archive.addfile(tarfile.TarInfo('caf\u00e9.png'))
  assert (
    f'{tmp_path}/b.tar: caf\\xe9'
    in opened(tmp_path, max_bad_fraction=1.0).bad.reasons
  )


def test_a_truncated_caption_is_a_bad_record(tmp_path):
  whole = tar(('0.png', encoded()), ('0.txt', 'x' * 600))
  (tmp_path / 'a.tar').write_bytes(whole[: 512 * 3 + 100])
  source = opened(tmp_path, max_bad_fraction=1.0)
  assert failures(source) == {
    f'{tmp_path}/a.tar: 0': 'the tar ends 500 bytes too early'
  }


def test_compressed_tars_are_refused_by_name(tmp_path):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz'):
    pass
  (tmp_path / 'a.tar').write_bytes(buffer.getvalue())
  with pytest.raises(UserError) as error:
    opened(tmp_path)
  assert error.value.key == 'data.max_bad_fraction'
  assert error.value.value == [str(tmp_path / 'a.tar')]


@pytest.mark.parametrize('path', ['*.tar', 'none', 'none-{0..3}.tar'])
def test_an_empty_source_is_reported(tmp_path, path):
  with pytest.raises(UserError) as error:
    opened(tmp_path / path)
  assert error.value.key == 'data.path'
  assert error.value.value == f'{tmp_path}/{path}'
  assert error.value.allowed == 'tars'


def test_tars_without_samples_are_reported(tmp_path):
  (tmp_path / 'a.tar').write_bytes(tar(('x.bin', b'')))
  with pytest.raises(UserError) as error:
    opened(tmp_path, max_bad_fraction=1.0)
  assert error.value.value == str(tmp_path) and error.value.allowed != 'tars'
  assert error.value.key == 'data.path'
  assert re.search(r'\.bin .*\(1\)', str(error.value))


@pytest.fixture
def memory():
  system = fsspec.filesystem('memory')
  system.store.clear()
  yield system
  system.store.clear()


def test_remote_tars_are_read_by_range(memory, two, monkeypatch):
  for file in two.glob('*.tar'):
    memory.pipe_file(f'/bucket/d/{file.name}', file.read_bytes())
  memory.pipe_file(
    '/bucket/d/s-00_x.json', json.dumps({'a/0': {'x': 'more'}}).encode()
  )
  for path in ('memory://bucket/d', 'memory://bucket/d/s-{00..01}.tar'):
    source = opened(path)
    assert texts(source) == ['zero', 'one', 'two']
    assert source[0]['captions'] == {'prompt': 'zero', 'x': 'more'}
  assert source.bad.reasons == {}


def test_a_remote_tar_that_vanishes_is_a_bad_record(memory, two):
  memory.pipe_file('/d/s.tar', (two / 's-00.tar').read_bytes())
  source = opened('memory://d')
  memory.rm('/d/s.tar')
  assert list(failures(source)) == [
    'memory:///d/s.tar: a/0',
    'memory:///d/s.tar: a/1',
  ]


def test_a_tar_may_have_another_name(two, tmp_path):
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'shard-0').write_bytes((two / 's-00.tar').read_bytes())
  assert texts(opened(other / 'shard-0')) == texts(opened(two / 's-00.tar'))


@pytest.mark.parametrize('name', ['notes.tar.gz', 'notes', 'notes.txt'])
def test_a_file_that_is_not_a_tar_is_reported(name, tmp_path):
  (tmp_path / name).write_bytes(b'no tar')
  with pytest.raises(UserError) as error:
    opened(tmp_path / name)
  assert error.value.key == 'data.max_bad_fraction'
  assert error.value.value == [str(tmp_path / name)]
