"""A workdir in a bucket: gs:// through gcsfs, orbax and tensorstore alike.

The bucket is fake_gcs.py, which implements the calls that these make; nothing
here is tested against the real one.
"""

import dataclasses
import json
import os
import re
import threading
import time

from etils import epath
import fsspec
import jax
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax import locks
from sana_jax.errors import UserError
from sana_jax.launch import hosts
from sana_jax.locks import stores
from sana_jax.locks.holder import Holder
from sana_jax.tasks import exports
from sana_jax.training import checkpoint_files, jsonl_log
from sana_jax.training.checkpoints import Checkpoints
from sana_jax.training.jsonl_log import JsonlLog
from sana_jax.training.task import Exporter
from sana_jax.training.workdir import new_folder, resolve

pytestmark = pytest.mark.long
RUN = 'gs://bucket/run'


@pytest.fixture(scope='module')
def store(load_module):
  """The bucket."""
  with (
    load_module('fake_gcs').serve() as (address, store),
    pytest.MonkeyPatch.context() as patch,
  ):
    for key, value in {
      'STORAGE_EMULATOR_HOST': address,
      'TENSORSTORE_GCS_HTTP_URL': address,
      'GOOGLE_CLOUD_PROJECT': 'none',
      'NO_GCE_CHECK': 'true',
      'GCE_METADATA_ROOT': '127.0.0.1:1',  # No authentication.
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
    }.items():
      patch.setenv(key, value)
    patch.setitem(fsspec.config.conf, 'gcs', {'token': 'anon'})
    yield store


@pytest.fixture(scope='module')
def bucket(store):
  """The objects of the bucket, by name."""
  return store.objects


@pytest.fixture(scope='module')
def lines_at_saves():
  """Log lines in the bucket when each checkpoint starts, by step."""
  return {}


@pytest.fixture(scope='module')
def finished(bucket, toy, lines_at_saves):
  """A run that was stopped by an error after step 7, and resumed."""

  class Crash(Exception):
    pass

  def crash(params, step):
    if step == 7:
      raise Crash

  save = Checkpoints.save

  def watched(self, step, *args, **kwargs):
    lines_at_saves[step] = steps_of(bucket, 'run/metrics.jsonl')
    save(self, step, *args, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Checkpoints, 'save', watched)
    task = toy.Toy()
    task.pictures = crash
    with pytest.raises(Crash):
      toy.run(RUN, task, pictures_every_steps=7)
    leave_half_a_checkpoint(bucket)
    assert checkpoint_files.steps(resolve(RUN) / 'checkpoints') == [4]
    return toy.run(RUN, pictures_every_steps=5)


def test_one_run_at_a_time_has_a_workdir(bucket, store, toy):
  place = locks.within('gs://bucket/shared')
  with locks.hold(place, 'training', '--workdir') as lock:
    lock.check()
    assert sorted(n for n in bucket if n.startswith('shared/')) == [
      'shared/.lock',
      f'shared/.lock{lock._beat}',
    ]
    raised = []

    def run():
      try:
        toy.run('gs://bucket/shared')
      except locks.InUse as error:
        raised.append(str(error))

    second = threading.Thread(target=run)
    second.start()
    second.join(120)
    assert f'bucket/shared is in use by process {os.getpid()} ' in raised[0]
  assert not [n for n in bucket if n.startswith('shared/')]


def test_the_age_of_a_heartbeat_is_by_the_clock_of_the_bucket(
  bucket, store, monkeypatch
):
  far = dataclasses.replace(Holder.here('x'), kernel='another', host='far')
  place = locks.within('gs://bucket/left')
  claims = stores.store_of(place)
  assert claims.create(
    '', lambda identity: json.dumps(dataclasses.asdict(far)).encode()
  )
  assert not claims.create('', lambda identity: b'')
  claims.renew(f'.{far.token}')
  assert claims.age(f'.{far.token}') < 60
  monkeypatch.setattr(store, 'seconds_ahead', 121.0)
  start = time.monotonic()
  with locks.hold(place, 'x', '--workdir') as lock:
    # Another run takes it over; late writes of this one have no effect.
    store.put('left/.lock', b'of another')
    claims.renew(lock._beat)
    with pytest.raises(locks.InUse):
      lock.check()
  assert bucket['left/.lock'][1] == b'of another'
  assert not [n for n in bucket if n.startswith('left/.lock.')]
  assert time.monotonic() - start < 60


def leave_half_a_checkpoint(bucket):
  """Step 6, as a kill leaves it."""
  for name in [n for n in bucket if n.startswith('run/checkpoints/4/')]:
    if not name.endswith('commit_success.txt'):
      bucket[name.replace('/4/', '/6/')] = bucket[name]


def test_a_resumed_run_is_identical_bit_for_bit(finished, whole):
  jax.tree.map(np.testing.assert_array_equal, whole[1], finished)


def test_the_bucket_has_what_a_folder_has(finished, bucket, whole):
  folder, _ = whole
  theirs = {
    p.relative_to(folder).as_posix()
    for p in folder.rglob('*')
    if p.is_file() and 'checkpoints' not in p.parts
  }
  ours = {
    name.removeprefix('run/')
    for name in bucket
    if name.startswith('run/') and '/checkpoints/' not in name
  }
  # A resumed run begins another file of events.
  name = lambda path: re.sub(r'(?<=events\.out).*', '', path)
  assert set(map(name, ours)) == set(map(name, theirs))
  assert checkpoint_files.steps(resolve(RUN) / 'checkpoints') == [8, 10]
  assert steps_of(bucket, 'run/metrics.jsonl') == [2, 4, 6, 8, 10]
  assert (
    bucket['run/model/model.npz'][1]
    == (folder / 'model/model.npz').read_bytes()
  )


def test_lines_of_a_saved_step_are_written_before_it_is_saved(
  finished, lines_at_saves
):
  assert lines_at_saves == {4: [2, 4], 8: [2, 4, 6, 8], 10: [2, 4, 6, 8, 10]}


def test_a_line_does_not_send_the_file(bucket):
  many = opened('many')
  generation = bucket['many.jsonl'][0]
  for step in range(1, 100):
    many.append({'step': step, 'seconds': 1.0})
  assert bucket['many.jsonl'][0] == generation
  many.sync()
  many.sync()
  assert bucket['many.jsonl'][0] == generation + 1
  assert steps_of(bucket, 'many.jsonl') == list(range(1, 100))
  many.append({'step': 100, 'seconds': 1.0})
  many.close()
  assert steps_of(bucket, 'many.jsonl')[-1] == 100
  again = opened('many', 50)
  again.append({'step': 51, 'seconds': 1.0})
  again.close()
  assert steps_of(bucket, 'many.jsonl') == list(range(1, 52))


def test_lines_are_sent_in_the_background_and_again_after_a_failure(
  bucket, monkeypatch, caplog
):
  failing, write = [True, True], jsonl_log.write_atomically
  late = opened('late', every_seconds=0.01)

  def flaky(path, data):
    if failing and failing.pop():
      raise UserError('The bucket is away.')
    write(path, data)

  monkeypatch.setattr(jsonl_log, 'write_atomically', flaky)
  late.append({'step': 1, 'seconds': 1.0})
  deadline = time.monotonic() + 60
  while not steps_of(bucket, 'late.jsonl') and time.monotonic() < deadline:
    time.sleep(0.01)
  assert steps_of(bucket, 'late.jsonl') == [1]
  assert caplog.text.count('in memory for now. The bucket is away.') == 2
  late.close()


def test_lines_that_cannot_be_sent_stop_before_a_save(bucket, monkeypatch):
  class Away(Exception):
    pass

  def away(*_):
    raise Away('quota')

  stuck = opened('stuck')
  stuck.append({'step': 1, 'seconds': 1.0})
  with monkeypatch.context() as patch:
    patch.setattr(epath.Path('gs://x').__class__, 'write_bytes', away)
    with pytest.raises(UserError, match=r'stuck\.jsonl.*quota'):
      stuck.sync()
  stuck.close()
  assert steps_of(bucket, 'stuck.jsonl') == [1]


def opened(name, last_step=0, **settings):
  return JsonlLog(resolve(f'gs://bucket/{name}.jsonl'), last_step, **settings)


def steps_of(bucket, name):
  return [
    json.loads(line)['step'] for line in bucket[name][1].decode().splitlines()
  ]


def test_weights_are_read_from_the_bucket(finished, toy):
  checkpoint = exports.find(resolve(RUN), 8)
  assert str(checkpoint) == f'{RUN}/checkpoints/8'
  ema = exports.read(
    exports.find(resolve(RUN), None),
    'ema',
    toy.get_config(),
    Exporter(toy.Toy().objective, toy.Toy().export),
  )
  jax.tree.map(np.testing.assert_array_equal, ema, finished.ema)
  with pytest.raises(UserError, match='--step=9.*8, 10'):
    exports.find(resolve(RUN), 9)


def test_the_index_of_a_model_comes_last(bucket):
  folder = resolve('gs://bucket/out/model')
  for content in 'one', 'two':
    with new_folder(folder) as part:
      (part / 'vae').mkdir()
      (part / f'vae/{content}').write_text(content)
      (part / 'model_index.json').write_text('{}')
  names = [n for n in bucket if n.startswith('out/model/')]
  generations = {name: bucket[name][0] for name in names}
  assert sorted(names) == ['out/model/model_index.json', 'out/model/vae/two']
  assert max(generations, key=generations.get).endswith('model_index.json')


def test_what_fails_leaves_the_model_as_it_was(bucket):
  folder = resolve('gs://bucket/kept/model')
  with new_folder(folder) as part:
    (part / 'model_index.json').write_text('{}')
  with pytest.raises(ValueError, match='no'), new_folder(folder) as part:
    (part / 'model_index.json').write_text('[]')
    raise ValueError('no')
  assert bucket['kept/model/model_index.json'][1] == b'{}'


def test_a_host_writes_to_the_workdir_and_finds_data_in_a_bucket(store):
  config = base.train('sana')
  config.update(autoencoder='shapes', text_encoder='shapes')
  config.data.update(source='webdataset', path='gs://bucket/data/{0..9}.tar')
  store.put('data/0.tar', b'1')
  before = set(store.objects)
  assert hosts.check(config, 'gs://bucket/other') is None
  assert set(store.objects) == before  # Nothing is left.
  config.inputs.cache = 'gs://bucket/cache'
  error = hosts.check(config, 'gs://bucket/other')
  assert (error.key, error.exit_code) == ('inputs.cache', 2)
