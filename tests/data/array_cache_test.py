import os

import numpy as np
import pytest

from sana_jax.data.array_cache import cached_arrays, FAILED_READS

pytestmark = pytest.mark.fast


@pytest.fixture
def made():
  return []


def ask(cache, made, key='k', size=3):
  def make():
    made.append(key)
    return {'a': np.arange(size), 'b': np.asarray('text')}

  return cached_arrays(cache, key, make)


@pytest.mark.parametrize('size', [3, 2**18])
def test_arrays_are_made_once_for_each_key(tmp_path, made, size):
  for key in ('x', 'x', ['y', {'z': 1}], ['y', {'z': 1}]):
    arrays = ask(tmp_path / 'new', made, key, size)
    np.testing.assert_array_equal(arrays['a'], np.arange(size))
    assert str(arrays['b']) == 'text'
  assert made == ['x', ['y', {'z': 1}]]


@pytest.mark.parametrize('cache', [None, ''])
def test_without_a_cache_nothing_is_written(tmp_path, monkeypatch, made, cache):
  monkeypatch.chdir(tmp_path)
  ask(cache, made), ask(cache, made)
  assert made == ['k', 'k']
  assert not list(tmp_path.iterdir())


def test_arrays_stay_valid_if_their_file_is_truncated_later(tmp_path, made):
  arrays = ask(tmp_path, made, size=2**18)
  arrays = ask(tmp_path, made, size=2**18)
  for file in tmp_path.iterdir():
    os.truncate(file, 0)
  np.testing.assert_array_equal(arrays['a'], np.arange(2**18))
  assert made == ['k']


@pytest.mark.parametrize('harm', ['empty', 'no zip', 'cut', 'flipped'])
def test_damaged_entries_are_recomputed(tmp_path, made, harm):
  ask(tmp_path, made, size=2**18)
  (file,) = tmp_path.iterdir()
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(
    {'empty': b'', 'no zip': b'no zip', 'cut': data[:-1], 'flipped': data}[harm]
  )
  np.testing.assert_array_equal(
    ask(tmp_path, made, size=2**18)['a'], np.arange(2**18)
  )
  assert made == ['k', 'k']


def test_a_folder_that_cannot_be_written_causes_a_warning(
  tmp_path, made, caplog
):
  (tmp_path / 'file').write_text('')
  for _ in range(2):
    np.testing.assert_array_equal(
      ask(tmp_path / 'file' / 'x', made)['a'], np.arange(3)
    )
  assert made == ['k', 'k']
  assert 'cannot be written' in caplog.text


def test_without_a_folder_nothing_is_stored(made):
  ask(None, made)
  ask(None, made)
  assert made == ['k', 'k']


@pytest.mark.parametrize('cache', [True, False])
def test_arrays_with_failed_reads_are_not_stored(tmp_path, caplog, cache):
  failures = [[False, True, True], [False] * 3, None]

  def make():
    return {'a': np.arange(3), FAILED_READS: np.asarray(failures.pop(0))}

  for _ in range(2):
    assert list(cached_arrays(tmp_path if cache else None, 'k', make)) == ['a']
  assert '2 reads failed' in caplog.text
  if cache:
    cached_arrays(tmp_path, 'k', make)
