"""Caches are made whole: stopped, shared among processes, or with bad data."""

import json
import re
import shutil
import threading

import jax
import numpy as np
import pytest

from sana_jax import locks
from sana_jax.data import cache
from sana_jax.data.captions import CaptionRule
from sana_jax.data.records import BadRecord
from sana_jax.errors import TransientError, UserError
from sana_jax.locks import process_group
from sana_jax.tasks.sana import caching, inputs, shards
from sana_jax.training import dataset_check


def shards_of(path):
  return {p.name: p.read_bytes() for p in sorted(path.glob('*.safetensors'))}


def make(config, path):
  return caching.make(config, path, shard_records=8, batch_size=8)


@pytest.mark.long
def test_a_cache_that_was_stopped_is_finished(
  small, folder, whole, tmp_path, monkeypatch
):
  work, done = shards.ShardEncoder.shard, []

  def stopped(self, records):
    if len(done) == 2:
      raise KeyboardInterrupt
    done.append(work(self, records))
    return done[-1]

  monkeypatch.setattr(shards.ShardEncoder, 'shard', stopped)
  with pytest.raises(KeyboardInterrupt):
    make(small(folder), tmp_path)
  assert not (tmp_path / cache.INDEX).exists()
  # Of two that were written, one is damaged afterwards.
  first = tmp_path / cache.shard_name(0)
  first.write_bytes(first.read_bytes()[:-100])
  before = (tmp_path / cache.shard_name(1)).stat().st_mtime_ns
  monkeypatch.setattr(shards.ShardEncoder, 'shard', work)
  make(small(folder), tmp_path)
  assert (tmp_path / cache.shard_name(1)).stat().st_mtime_ns == before
  assert shards_of(tmp_path) == shards_of(whole)


@pytest.mark.long
def test_processes_share_the_shards(
  small, folder, whole, tmp_path, monkeypatch
):
  monkeypatch.setattr(caching, 'barrier', lambda where: None)
  for module in caching, dataset_check:
    monkeypatch.setattr(
      module, 'all_gather', lambda numbers: np.array([numbers])
    )
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(process_group, 'current', process_group.Processes)
  for index in (1, 0):  # The one that writes the index comes last.
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    # Only the first process returns the result.
    if index == 1:
      (tmp_path / cache.ABOUT).write_bytes((whole / cache.ABOUT).read_bytes())
    make(small(folder), tmp_path)
    if index == 1:
      assert sorted(shards_of(tmp_path)) == [
        cache.shard_name(1),
        cache.shard_name(3),
      ]
  assert shards_of(tmp_path) == shards_of(whole)


def test_a_folder_that_another_builds_in_is_left_alone(
  small, folder, whole, tmp_path
):
  raised = []

  def second(path):
    try:
      make(small(folder), path)
    except locks.InUse as error:
      raised.append(error)

  for path in tmp_path, whole:
    with locks.hold(locks.within(path), 'x', '--out'):
      thread = threading.Thread(target=second, args=[path])
      thread.start()
      thread.join()
  assert len(raised) == 1  # A finished cache is only read.
  assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_cache_that_was_taken_over_is_left_to_the_other(
  small, folder, tmp_path, monkeypatch
):
  work = shards.ShardEncoder.shard

  def lost(self, records):
    (tmp_path / '.lock').write_text('of another')
    return work(self, records)

  monkeypatch.setattr(shards.ShardEncoder, 'shard', lost)
  with pytest.raises(locks.InUse) as error:
    make(small(folder), tmp_path)
  assert (error.value.key, error.value.value) == ('--out', str(tmp_path))
  assert not shards_of(tmp_path)


def test_a_cache_is_resumed_only_with_as_many_records(
  small, folder, whole, tmp_path
):
  path = shutil.copytree(whole, tmp_path / 'copy')
  (path / cache.INDEX).unlink()
  about = json.loads((path / cache.ABOUT).read_text())
  # As many as were there before a host could not open a file.
  (path / cache.ABOUT).write_text(json.dumps({**about, 'records': 31}))
  with pytest.raises(TransientError) as error:
    make(small(folder), path)
  assert (error.value.key, error.value.value) == ('--out', 30)
  assert error.value.allowed == (31,)


def test_a_finished_cache_is_left_alone(small, folder, whole, monkeypatch):
  monkeypatch.setattr(shards.ShardEncoder, 'from_config', None)
  about = make(small(folder), whole)
  assert about['records'] == 30 and about['shard_records'] == 8
  assert about == json.loads((whole / cache.ABOUT).read_text())


def test_complete_shards_are_found_by_their_headers(whole, monkeypatch):
  names = [cache.shard_name(i) for i in range(4)]
  monkeypatch.setattr(caching.Columns, 'rows', None)
  assert caching._complete(str(whole), [*names, 'none']) == set(names)


@pytest.mark.parametrize(
  'damage', [b'', b'12', b'\xff' * 8, b'\x02' + bytes(7) + b'[]']
)
def test_invalid_shards_are_not_complete(damage, tmp_path):
  (tmp_path / cache.shard_name(0)).write_bytes(damage)
  assert not caching._complete(str(tmp_path), [cache.shard_name(0)])


@pytest.mark.parametrize('file', [cache.INDEX, cache.NULL])
@pytest.mark.parametrize('damage', ['cut', 'gone', 'empty'])
def test_a_damaged_index_is_made_again(
  file, damage, small, folder, whole, tmp_path
):
  path = shutil.copytree(whole, tmp_path / 'copy')
  config = small(folder, **{'inputs.cache': str(path)})
  content = (path / file).read_bytes()
  if damage == 'gone':
    (path / file).unlink()
  else:
    (path / file).write_bytes(content[:-9] if damage == 'cut' else b'')
  if (file, damage) != (cache.INDEX, 'gone'):
    with pytest.raises(UserError) as error:
      inputs.make(config, tmp_path)
    assert error.value.value == f'{path}/{file}'
  make(config, path)
  assert shards_of(path) == shards_of(whole)


def test_another_config_makes_no_mix(small, folder, whole, tmp_path):
  before = shards_of(whole)
  with pytest.raises(UserError) as error:
    make(small(folder, **{'inputs.dtype': 'bfloat16'}), whole)
  assert error.value.key == 'inputs.cache'
  assert error.value.value == str(whole)
  assert re.search('inputs.dtype.*float32.*bfloat16', str(error.value))
  assert shards_of(whole) == before
  with pytest.raises(UserError) as error:
    make(
      small(folder, **{'inputs.latents': 'online', 'inputs.text': 'online'}),
      tmp_path,
    )
  assert (error.value.key, error.value.value) == ('inputs.latents', 'online')
  assert error.value.allowed == ('cached',)
  assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_bad_record_is_left_out_and_named(
  small, folder, whole, caplog, tmp_path
):
  make(small(folder), tmp_path)
  assert 'Skipped bad record 08.png' in caplog.text
  assert shards_of(tmp_path) == shards_of(whole)
  source = cache.CachedSource(tmp_path, CaptionRule())
  assert len(source) == 30 and source[7] and source[9]
  with pytest.raises(BadRecord) as error:
    source[8]  # noqa: B018
  assert error.value.name.startswith('record 8 in ')


def test_reading_ahead_keeps_the_order_and_stops():
  from concurrent import futures

  with futures.ThreadPoolExecutor(4) as pool:
    assert list(shards.ahead(pool, lambda x: x * x, range(50), 7)) == [
      x * x for x in range(50)
    ]

    def fails(x):
      if x == 3:
        raise ValueError('three')
      return x

    with pytest.raises(ValueError, match='three'):
      list(shards.ahead(pool, fails, range(50), 2))


def test_batches_are_filled_to_one_shape():
  images = np.ones((3, 2, 2, 3), np.uint8)
  filled = shards._filled(images, 5)
  assert filled.shape == (5, 2, 2, 3) and filled[:3].all()
  assert not filled[3:].any()
