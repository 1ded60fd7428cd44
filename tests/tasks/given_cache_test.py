"""A cache that the config names is of the same data, or refused."""

import json
import logging
import os
import shutil

import pytest

from sana_jax.data import cache
from sana_jax.tasks.sana import caching, fingerprints


@pytest.fixture(scope='module')
def data(folder, tmp_path_factory):
  return shutil.copytree(folder, tmp_path_factory.mktemp('data') / 'images')


@pytest.fixture(scope='module')
def made(small, data, tmp_path_factory):
  path = tmp_path_factory.mktemp('made')
  caching.make(small(data, **{'inputs.latents': 'online'}), path)
  return path


def check(small, data, made, **changes):
  changes = {'inputs.latents': 'online', **changes}
  fingerprints.compare_given(str(made), small(data, **changes))


@pytest.fixture
def copy(data, tmp_path):
  return shutil.copytree(data, tmp_path / 'images')


def test_the_same_data_elsewhere_are_accepted(small, copy, made, caplog):
  with caplog.at_level(logging.WARNING):
    check(small, copy, made)
  assert not caplog.records


@pytest.mark.parametrize('change', ['more', 'fewer', 'longer', 'renamed'])
def test_other_data_are_refused(change, small, copy, made):
  match change:
    case 'more':
      shutil.copy(copy / '01.png', copy / '99.png')
      shutil.copy(copy / '01.json', copy / '99.json')
    case 'fewer':
      (copy / '01.png').unlink()
    case 'longer':
      (copy / '01.json').write_text('{"prompt": "another text"}')
    case 'renamed':
      (copy / '01.png').rename(copy / '01.webp')
  with pytest.raises(fingerprints.OtherCache) as error:
    check(small, copy, made)
  assert error.value.key == 'inputs.cache'
  assert error.value.value == str(made)
  assert 'data.path' in str(error.value)


def test_other_files_in_the_folder_do_not_matter(small, copy, made):
  (copy / 'notes.md').write_text('x')
  check(small, copy, made)


def test_files_with_another_time_cause_a_warning(small, copy, made, caplog):
  os.utime(copy / '01.json', (1, 1))
  with caplog.at_level(logging.WARNING):
    check(small, copy, made)
  assert 'make the cache again if they were edited' in caplog.text


@pytest.mark.parametrize('source', ['folder', 'webdataset', 'parquet'])
def test_data_that_are_gone_are_not_compared(source, small, made, caplog):
  about = json.loads((made / cache.ABOUT).read_text())
  changes = {'data.source': source}
  there = small('gone', **changes, **{'inputs.latents': 'online'})
  (made / cache.ABOUT).write_text(
    json.dumps({**about, **fingerprints._of_models(there)})
  )
  with caplog.at_level(logging.WARNING):
    check(small, 'gone', made, **changes)
  assert 'without a comparison with the data' in caplog.text
  (made / cache.ABOUT).write_text(json.dumps(about))


def test_older_caches_are_compared_with_the_times(small, copy, data, made):
  about = json.loads((made / cache.ABOUT).read_text())
  older = {k: v for k, v in about.items() if k != fingerprints._NAMES}
  (made / cache.ABOUT).write_text(json.dumps(older))
  check(small, data, made)
  os.utime(copy / '01.json', (1, 1))
  with pytest.raises(fingerprints.OtherCache):
    check(small, copy, made)
  (made / cache.ABOUT).write_text(json.dumps(about))
