import errno
import importlib
import os
import sys

import fsspec
import pytest

from sana_jax.data import files
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast

# The package has an attribute of the same name.
registry = importlib.import_module('fsspec.registry')


@pytest.fixture
def memory():
  system = fsspec.filesystem('memory')
  system.store.clear()
  for name in ('a/0.tar', 'a/1.tar', 'a/b/2.tar', 'a/x.json'):
    system.pipe_file(f'/{name}', name.encode())
  yield 'memory://'
  system.store.clear()


@pytest.fixture
def disk(tmp_path):
  (tmp_path / 'a' / 'b').mkdir(parents=True)
  for name in ('a/0.tar', 'a/1.tar', 'a/b/2.tar', 'a/x.json'):
    (tmp_path / name).write_bytes(name.encode())
  return f'{tmp_path}/'


@pytest.mark.parametrize('place', ['memory', 'disk'])
@pytest.mark.parametrize(
  'pattern, found',
  [
    ('a/*.tar', ['a/0.tar', 'a/1.tar']),
    ('a/{1,0}.tar', ['a/0.tar', 'a/1.tar']),
    ('a/0.tar', ['a/0.tar']),
    ('a', ['a/0.tar', 'a/1.tar']),
    ('a/', ['a/0.tar', 'a/1.tar']),
    ('a/**/*.tar', ['a/0.tar', 'a/1.tar', 'a/b/2.tar']),
    ('none', []),
    ('a/*.zip', []),
  ],
)
def test_patterns_match_local_and_remote_files(place, pattern, found, request):
  root = request.getfixturevalue(place)
  got = files.expand(root + pattern, ('*.tar',))
  assert [path.removeprefix(root).lstrip('/') for path in got] == found
  for path, (size, _) in got.items():
    assert files.read(path) == path[-size:].encode()


@pytest.mark.parametrize('place', ['memory', 'disk'])
def test_ranges_are_read_and_folders_listed(place, request):
  root = request.getfixturevalue(place)
  assert files.read(f'{root}a/0.tar', 2, 5) == b'0.t'
  assert files.read(f'{root}a/0.tar', 2) == b'0.tar'
  assert files.read(f'{root}a/0.tar', 2, 99) == b'0.tar'
  assert list(files.list_recursively(f'{root}a')) == [
    '0.tar',
    '1.tar',
    'b/2.tar',
    'x.json',
  ]
  assert files.is_folder(f'{root}a') and not files.is_folder(f'{root}a/0.tar')
  assert files.exists(f'{root}a/0.tar') and not files.exists(f'{root}a/9.tar')


@pytest.mark.parametrize('place', ['memory', 'disk'])
def test_missing_files_of_a_list_are_logged(place, request, caplog):
  root = request.getfixturevalue(place)
  got = files.expand(f'{root}a/{{0..7}}.tar')
  assert [(path[-5:], size) for path, (size, _) in got.items()] == [
    ('0.tar', 7),
    ('1.tar', 7),
    *((f'{i}.tar', 0) for i in range(2, 8)),
  ]
  assert (
    f'6 of {root}a/{{0..7}}.tar are missing, the first is {root}a/2.tar.'
  ) in caplog.text
  assert files.expand(f'{root}a/{{3..7}}.tar') == {}


def test_links_are_followed(tmp_path):
  (tmp_path / 'blob').write_bytes(b'12345')
  (tmp_path / 'd').mkdir()
  for name, target in (('x.tar', 'blob'), ('gone.tar', 'none')):
    (tmp_path / 'd' / name).symlink_to(tmp_path / target)
  of_file = files.expand(str(tmp_path / 'blob')).popitem()[1]
  for found in (
    files.expand(str(tmp_path / 'd'), ('*.tar',)),
    files.expand(str(tmp_path / 'd' / 'x.tar')),
    files.list_recursively(str(tmp_path / 'd')),
  ):
    ((name, stat),) = found.items()
    assert name.endswith('x.tar')
    assert stat == of_file


@pytest.mark.parametrize(
  'pattern, parts',
  [
    ('a', ['a']),
    ('a{b,c}d', ['abd', 'acd']),
    ('{8..10}', ['8', '9', '10']),
    ('{008..010}', ['008', '009', '010']),
    ('{0..1}-{x,y}', ['0-x', '0-y', '1-x', '1-y']),
    ('{x}', ['{x}']),
    ('{a,b', ['{a,b']),
    ('{9..1}', []),
    ('{٠..٩}', ['{٠..٩}']),
  ],
)
def test_braces_are_those_of_a_shell(pattern, parts):
  assert files.braces(pattern) == parts


@pytest.mark.parametrize(
  'pattern', ['{0..99999999}.tar', '{0..9}' * 9, '{000..999999}/{1..2}.tar']
)
def test_braces_that_expand_to_too_many_files_are_refused(pattern):
  with pytest.raises(UserError) as error:
    files.braces(pattern)
  assert (error.value.key, error.value.value) == ('data.path', pattern)
  assert error.value.allowed == f'{files.MOST} or fewer'


@pytest.mark.parametrize(
  'path, module, extra',
  [
    ('gs://bucket/*.tar', 'gcsfs', 'gcs'),
    ('s3://bucket/*.tar', 's3fs', 's3'),
    ('s3://bucket/x.parquet', 's3fs', 's3'),
  ],
)
def test_a_missing_package_is_reported_with_its_extra(
  path, module, extra, monkeypatch
):
  monkeypatch.setitem(sys.modules, module, None)
  monkeypatch.setattr(
    registry,
    '_registry',
    {k: v for k, v in registry._registry.items() if k not in ('gs', 's3')},
  )
  with pytest.raises(UserError) as error:
    files.expand(path)
  assert path in str(error.value) and module in str(error.value)
  assert error.value.key == extra


def test_an_offline_hub_is_reported():
  with pytest.raises(UserError) as error:
    files.expand('hf://datasets/a/b/*.tar')
  assert error.value.key == 'data.path'
  assert error.value.value == 'hf://datasets/a/b/*.tar'
  assert 'offline' in str(error.value)


def test_unsupported_urls_are_reported():
  with pytest.raises(UserError) as error:
    files.expand('foo://x')
  assert (error.value.key, error.value.value) == ('data.path', 'foo://x')
  assert set(error.value.allowed) > {'gs', 's3', 'hf'}


def test_any_error_of_a_library_while_reading_is_an_os_error(monkeypatch):
  class Broken:
    def open(self, *args, **kwargs):
      raise RuntimeError('throttled')

  monkeypatch.setattr(files, '_system', lambda path: (Broken(), path))
  with pytest.raises(OSError, match='gs://x .*throttled'):
    files.read('gs://x')


def test_a_fifo_does_not_block(tmp_path):
  os.mkfifo(tmp_path / 'x')
  for read in (files.read, files.read_json, files.open_ahead):
    with pytest.raises(OSError) as error:
      read(str(tmp_path / 'x'))
    assert error.value.errno == errno.EINVAL


def test_a_range_beyond_the_end_takes_no_memory(tmp_path):
  (tmp_path / 'x').write_bytes(b'12345')
  assert files.read(str(tmp_path / 'x'), 3, 2**62) == b'45'
  assert files.read(str(tmp_path / 'x'), 7, 9) == b''


def test_a_failed_write_leaves_the_file_unchanged(tmp_path):
  (tmp_path / 'x').mkdir()
  with pytest.raises(OSError):
    files.write(str(tmp_path / 'x'), b'new')
  assert [p.name for p in tmp_path.iterdir()] == ['x']


@pytest.mark.parametrize(
  'path',
  [
    'http://127.0.0.1:9/x.tar',
    'file:///etc/hostname',
    'github://a:b@c/x',
    'simplecache::http://127.0.0.1:9/x',
    'zip://x::memory://y',
    'reference://x',
    'sftp://host/x',
  ],
)
def test_other_protocols_are_refused(path):
  for function in (files.read, files.expand):
    with pytest.raises(UserError) as error:
      function(path)
    assert (error.value.key, error.value.value) == ('data.path', path)
    assert 'gs' in error.value.allowed


def test_a_local_name_is_not_parsed_as_a_chain_of_protocols(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for name in ('zip::x', 'simplecache::a.tar'):
    (tmp_path / name).write_bytes(b'data')
    assert files.read(name) == b'data'
    assert list(files.expand(str(tmp_path / name))) == [str(tmp_path / name)]
