"""A host's cache is used if it is complete; otherwise the workdir is."""

import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest


class Crash(Exception):
  pass


def crash(toy, workdir, cache, step=7, **changes):
  """A run that ends after `step`; the cache has the even steps, the workdir
  those of four."""
  task = toy.Toy()

  def pictures(params, at):
    if at == step:
      raise Crash

  task.pictures = pictures
  with pytest.raises(Crash):
    toy.run(
      workdir,
      task,
      checkpoint_cache=str(cache),
      pictures_every_steps=1,
      **changes,
    )


def resume(toy, workdir, cache, caplog, **changes):
  """Resumes the run; returns the final state and the log."""
  caplog.clear()
  with caplog.at_level(logging.INFO, 'absl'):
    state = toy.run(workdir, checkpoint_cache=str(cache), **changes)
  return state, caplog.text


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


@pytest.fixture(scope='module')
def whole(toy, tmp_path_factory):
  return toy.run(tmp_path_factory.mktemp('whole'))


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_resumes_from_the_cache_of_the_host(toy, tmp_path, whole, caplog):
  cut, cache = tmp_path / 'cut', tmp_path / 'cache'
  crash(toy, cut, cache)
  assert [p.name for p in files(cache)] == ['4.safetensors', '6.safetensors']
  state, log = resume(toy, cut, cache, caplog)
  assert 'from step 6 to 10' in log
  assert_equal(whole, state)
  assert jax.tree.map(lambda x: x.sharding, whole) == jax.tree.map(
    lambda x: x.sharding, state
  )
  steps = [
    json.loads(line)['step']
    for line in (cut / 'metrics.jsonl').read_text().splitlines()
  ]
  assert steps == [2, 4, 6, 8, 10]
  assert list(cache.iterdir()) == []  # It is done.


def test_the_cache_is_used_before_the_first_checkpoint(
  toy, tmp_path, whole, caplog
):
  cut, cache = tmp_path / 'cut', tmp_path / 'cache'
  crash(toy, cut, cache, checkpoint_every_steps=100)
  assert list((cut / 'checkpoints').iterdir()) == []
  state, log = resume(toy, cut, cache, caplog)
  assert 'from step 6 to 10' in log
  assert_equal(whole, state)


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
  toy, tmp_path, whole, caplog, damage, reason
):
  cut, cache = tmp_path / 'cut', tmp_path / 'cache'
  crash(toy, cut, cache)
  for path in files(cache):
    before = path.read_bytes()
    change(path, damage)
    assert path.read_bytes() != before
  state, log = resume(toy, cut, cache, caplog)
  assert reason in log and 'from step 4 to 10' in log
  assert_equal(whole, state)


def test_the_one_before_a_damaged_one_is_used(toy, tmp_path, whole, caplog):
  cut, cache = tmp_path / 'cut', tmp_path / 'cache'
  crash(toy, cut, cache, checkpoint_every_steps=100)
  change(files(cache)[-1], flip)
  state, log = resume(toy, cut, cache, caplog)
  assert 'from step 4 to 10' in log
  assert_equal(whole, state)


def test_without_an_undamaged_file_the_run_starts_with_its_first_batch(
  toy, tmp_path, whole, caplog
):
  cut, cache = tmp_path / 'cut', tmp_path / 'cache'
  crash(toy, cut, cache, checkpoint_every_steps=100)
  for path in files(cache):
    change(path, flip)
  state, log = resume(toy, cut, cache, caplog)
  assert 'from step 0 to 10' in log
  assert_equal(whole, state)


def test_another_sharding_uses_the_workdir(toy, tmp_path, whole, caplog):
  cut, cache = tmp_path / 'cut', tmp_path / 'cache'
  crash(toy, cut, cache)
  state, log = resume(toy, cut, cache, caplog, mesh={'fsdp': 8})
  assert 'written with another sharding' in log and 'from step 4 to 10' in log
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    whole.params,
    state.params,
  )


def test_a_workdir_that_is_newer_is_used(toy, tmp_path, whole, caplog):
  cut, cache, other = (tmp_path / x for x in ('cut', 'cache', 'other'))
  crash(toy, cut, cache, step=3)
  shutil.copytree(cache, other)
  crash(toy, cut, '', step=9)  # Resumed elsewhere, to step 8.
  state, log = resume(toy, cut, other, caplog)
  assert 'from step 8 to 10' in log
  assert_equal(whole, state)


@pytest.mark.parametrize('again', ['wiped', 'copied'])
def test_another_run_has_another_cache(toy, tmp_path, caplog, again):
  cut, cache = tmp_path / 'cut', tmp_path / 'cache'
  crash(toy, cut, cache, checkpoint_every_steps=100)
  other = cut
  if again == 'wiped':
    shutil.rmtree(cut)
  else:
    other = shutil.copytree(cut, tmp_path / 'other')
  _, log = resume(toy, other, cache, caplog)
  assert 'from step 0 to 10' in log
  assert len(files(cache)) == 2  # Those of the first, which are not ours.


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(
  toy, tmp_path, whole, caplog
):
  (tmp_path / 'file').write_text('')
  state, log = resume(toy, tmp_path / 'run', tmp_path / 'file', caplog)
  assert 'Writing the cache' in log and 'the run continues' in log
  assert_equal(whole, state)


def test_files_newer_than_the_restored_step_are_deleted(
  toy, tmp_path, whole, caplog
):
  cut, cache = tmp_path / 'cut', tmp_path / 'cache'
  crash(toy, cut, cache)
  change(files(cache)[-1], flip)
  crash(toy, cut, cache, step=5)
  # 6 was damaged, 4 was used.
  assert [p.name for p in files(cache)] == ['4.safetensors']
