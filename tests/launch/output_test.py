"""Output folders: checked before any work is done, and not left empty."""

import os
import pathlib

import pytest

from sana_jax.errors import UserError
from sana_jax.launch import output

pytestmark = pytest.mark.fast


@pytest.fixture
def place(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('text')
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'loop').symlink_to('loop')
  (tmp_path / 'dangling').symlink_to('nowhere')
  os.mkfifo('fifo')
  return tmp_path


IMPOSSIBLE = [
  'file',
  'file/below',
  'fifo',
  'loop',
  'loop/below',
  'dangling',
  'dangling/below',
  '/dev/null',
  '/dev/null/x',
  '/proc/x',
  '/proc/self/x/y',
  'a' * 256,
  'folder/' + 'a' * 256,
  'new/' + 'a' * 256 + '/x',
  'a/' * 3000,
  '~nosuchuser/x',
  'foo://x',
  'gs://bucket/x',
]


@pytest.mark.parametrize('path', IMPOSSIBLE)
def test_what_cannot_be_a_folder_is_refused_and_nothing_is_left(path, place):
  before = sorted(os.listdir(place))
  with pytest.raises(UserError):
    output.check(path)
  assert sorted(os.listdir(place)) == before
  assert not os.listdir(place / 'folder')


@pytest.mark.parametrize('path', ['folder', 'folder/new', 'a/b/c', '.', 'ä 中'])
def test_checking_a_folder_makes_nothing(path, place):
  before = sorted(place.rglob('*'))
  output.check(path)
  assert sorted(place.rglob('*')) == before


def test_the_flag_and_the_file_in_the_way_are_named(place):
  with pytest.raises(UserError, match=' /.*/file ') as error:
    output.check('file/x', '--tuned')
  assert (error.value.key, error.value.value) == ('--tuned', 'file/x')


def test_a_place_may_be_a_bucket_of_a_known_kind(place):
  output.check_place('gs://bucket/x', '--workdir')
  for path in ('foo://x', 'http://host/x', 'file/x'):
    with pytest.raises(UserError) as error:
      output.check_place(path, '--workdir')
    assert (error.value.key, error.value.value) == ('--workdir', path)


@pytest.mark.parametrize('path', ['file', 'folder', 'fifo', 'loop', 'dangling'])
def test_what_is_new_must_not_exist(path, place):
  with pytest.raises(UserError) as error:
    output.check_new(path, '--to')
  assert (error.value.key, error.value.value) == ('--to', path)


def test_what_is_new_may_lie_in_a_folder_that_is_new(place):
  assert output.check_new('a/b.pth', '--to') == pathlib.Path('a/b.pth')
  with pytest.raises(UserError) as error:
    output.check_new('file/b.pth', '--to')
  assert (error.value.key, error.value.value) == ('--to', 'file/b.pth')


def test_folders_of_which_nothing_came_are_gone(place):
  with pytest.raises(UserError), output.folder('a/b/c'):
    raise UserError('No.')
  assert not (place / 'a').exists()
  with output.folder('a/b') as out:
    (out / 'x').write_text('x')
  assert (place / 'a/b/x').is_file()
