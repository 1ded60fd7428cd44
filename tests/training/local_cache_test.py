"""A host's cache is used if it is complete; otherwise the workdir is."""

import json
import logging
import re
import shutil

from etils import epath
import jax
import numpy as np
import pytest

from sana_jax.sharding.mesh import make_mesh
from sana_jax.training import startup
from sana_jax.training.checkpoints import Checkpoints
from sana_jax.training.local_cache import LocalCache
from sana_jax.training.loop import plan_run


class Crash(Exception):
  pass


@pytest.fixture(scope='module')
def crashed(toy, tmp_path_factory):
  """A run that crashed after step 7, and a copy of its files.

  Its cache has the last even steps, its workdir those of four.
  """
  folder, task = tmp_path_factory.mktemp('crashed'), toy.Toy()

  def pictures(params, at):
    if at == 7:
      raise Crash

  task.pictures = pictures
  with pytest.raises(Crash):
    toy.run(
      folder / 'run/cut',
      task,
      checkpoint_cache=str(folder / 'run/cache'),
      pictures_every_steps=1,
    )
  shutil.copytree(folder / 'run', folder / 'kept')
  return folder


@pytest.fixture
def places(crashed):
  """Its workdir and its cache, as the crash left them, where they were."""
  shutil.rmtree(crashed / 'run')
  shutil.copytree(crashed / 'kept', crashed / 'run')
  return crashed / 'run/cut', crashed / 'run/cache'


def delete_checkpoints(cut):
  for path in (cut / 'checkpoints').iterdir():
    shutil.rmtree(path)


def resume(toy, workdir, cache, caplog):
  """Resumes the run; returns the final state and the log."""
  caplog.clear()
  with caplog.at_level(logging.INFO, 'absl'):
    state = toy.run(workdir, checkpoint_cache=str(cache))
  return state, caplog.text


def restore(toy, workdir, cache, caplog, **changes):
  """The state and the next batch of a resumed run, and the log."""
  config = toy.get_config(checkpoint_cache=str(cache), **changes)
  task, mesh = toy.Toy().make(), make_mesh(config.mesh)
  shapes = plan_run(config, task, mesh).state
  caplog.clear()
  with (
    caplog.at_level(logging.INFO, 'absl'),
    startup.open_batches(config, task, mesh) as batches,
    Checkpoints(workdir / 'checkpoints', config) as checkpoints,
    LocalCache(epath.Path(workdir), config) as local,
  ):
    state = startup.restore(shapes, batches, checkpoints, local)
    return (state, next(batches)['x']), caplog.text


@pytest.fixture(scope='module')
def wanted(toy):
  """Function of a step: the state and the next batch of an unbroken run."""
  states = [state for state, _ in toy.steps()]
  batches = toy.Toy().batches(seed=0, batch_size=16, rows=list(range(16)))
  rows = [next(batches)['x'] for _ in range(11)]
  return lambda step: (states[step - 1], rows[step])


def files(cache):
  return sorted(cache.rglob('*.safetensors'), key=lambda p: int(p.stem))


def change(path, damage):
  path.write_bytes(damage(bytearray(path.read_bytes())))


def flip(data):
  data[-10] ^= 1  # In the arrays, which are last.
  return data


def another_place(data):
  return re.sub(
    rb'(next_index\D+)(\d)',
    lambda found: found[1] + b'%d' % (int(found[2]) ^ 1),
    bytes(data),
    count=1,
  )


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.long
def test_a_run_resumes_from_the_cache_of_the_host(toy, places, whole, caplog):
  cut, cache = places
  assert [p.name for p in files(cache)] == ['4.safetensors', '6.safetensors']
  state, log = resume(toy, cut, cache, caplog)
  assert 'from step 6 to 10' in log
  assert_equal(whole[1], state)
  assert jax.tree.map(lambda x: x.sharding, whole[1]) == jax.tree.map(
    lambda x: x.sharding, state
  )
  steps = [
    json.loads(line)['step']
    for line in (cut / 'metrics.jsonl').read_text().splitlines()
  ]
  assert steps == [2, 4, 6, 8, 10]
  assert list(cache.iterdir()) == []  # It is done.


def test_the_cache_is_used_before_the_first_checkpoint(
  toy, places, wanted, caplog
):
  delete_checkpoints(places[0])
  found, _ = restore(toy, *places, caplog)
  assert_equal(wanted(6), found)


@pytest.mark.parametrize(
  'damage, reason',
  [
    (lambda data: data[:-20], 'unusable'),
    (flip, 'the arrays differ from what was saved'),
    (another_place, 'the position in the data differs'),
    (lambda data: b'', 'unusable'),
  ],
  ids=['truncated', 'flipped', 'another place', 'empty'],
)
def test_a_damaged_cache_is_logged_and_the_workdir_used(
  toy, places, wanted, caplog, damage, reason
):
  for path in files(places[1]):
    before = path.read_bytes()
    change(path, damage)
    assert path.read_bytes() != before
  found, log = restore(toy, *places, caplog)
  assert log.count(reason) == 2 and 'from the cache' not in log
  assert_equal(wanted(4), found)


@pytest.mark.long
def test_a_run_with_a_damaged_cache_ends_with_the_same_bits(
  toy, places, whole, caplog
):
  change(files(places[1])[-1], another_place)
  state, log = resume(toy, *places, caplog)
  assert 'from step 4 to 10' in log
  assert_equal(whole[1], state)


def test_the_one_before_a_damaged_one_is_used(toy, places, wanted, caplog):
  delete_checkpoints(places[0])
  change(files(places[1])[-1], flip)
  found, _ = restore(toy, *places, caplog)
  assert_equal(wanted(4), found)


def test_without_an_undamaged_file_the_run_starts_with_its_first_batch(
  toy, places, whole, caplog
):
  delete_checkpoints(places[0])
  for path in files(places[1]):
    change(path, flip)
  state, log = resume(toy, *places, caplog)
  assert 'from step 0 to 10' in log
  assert_equal(whole[1], state)


def test_another_sharding_uses_the_workdir(toy, places, wanted, caplog):
  found, log = restore(toy, *places, caplog, mesh={'fsdp': 8})
  assert 'written with another sharding' in log
  assert_equal(wanted(4), found)


def test_a_workdir_that_is_newer_is_used(toy, places, whole, wanted, caplog):
  cut, cache = places
  # Resumed elsewhere, to step 8.
  shutil.copytree(whole[0] / 'checkpoints/8', cut / 'checkpoints/8')
  found, log = restore(toy, cut, cache, caplog)
  assert 'from the cache' not in log
  assert_equal(wanted(8), found)


@pytest.mark.parametrize('again', ['wiped', 'copied'])
def test_another_run_has_another_cache(toy, places, tmp_path, caplog, again):
  cut, cache = places
  delete_checkpoints(cut)
  other = cut
  if again == 'wiped':
    shutil.rmtree(cut)
    cut.mkdir()
  else:
    other = shutil.copytree(cut, tmp_path / 'other')
  (state, _), _ = restore(toy, other, cache, caplog)
  assert state is None
  assert len(files(cache)) == 2  # Those of the first, which are not ours.


@pytest.mark.long
def test_a_cache_that_cannot_be_written_does_not_stop_the_run(
  toy, tmp_path, whole, caplog
):
  (tmp_path / 'file').write_text('')
  state, log = resume(toy, tmp_path / 'run', tmp_path / 'file', caplog)
  assert 'Writing the cache' in log and 'the run continues' in log
  assert_equal(whole[1], state)


def test_files_newer_than_the_restored_step_are_deleted(toy, places, caplog):
  change(files(places[1])[-1], flip)
  restore(toy, *places, caplog)
  # 6 was damaged, 4 was used.
  assert [p.name for p in files(places[1])] == ['4.safetensors']
