"""A run is one run, however often it is cut and whatever it runs on."""

import functools
import json
import os
import shutil
import signal

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sana_jax import kernels
from sana_jax.errors import UserError
from sana_jax.launching import restarts
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import exports
from sana_jax.training.completion import SkippedUpdates
from sana_jax.training.state import Frozen
from sana_jax.training.step import jit_step


def steps_of(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['step'] for line in lines]


def test_a_resumed_run_is_the_uninterrupted_run(toy, cut, whole, capfd):
  folder, whole = whole
  resumed = toy.run(cut)
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  assert int(resumed.step) == 10
  kernel = resumed.params['in']['kernel']
  assert kernel.addressable_shards[0].data.shape == (16, 8)
  assert jax.tree.map(lambda x: x.sharding, whole) == jax.tree.map(
    lambda x: x.sharding, resumed
  )
  assert 'Involuntary full rematerialization' not in capfd.readouterr().err
  # Each step has one line; 5 was the end of the first run.
  assert steps_of(cut) == [2, 4, 5, 6, 8, 10]
  assert steps_of(folder) == [2, 4, 6, 8, 10]


def test_a_checkpoint_is_resumed_after_a_kill(toy, whole, tmp_path):
  """With log lines and pictures of later steps, as a kill leaves them."""
  resumed = toy.resume(whole[0], tmp_path / 'cut', 8)
  jax.tree.map(np.testing.assert_array_equal, whole[1], resumed)
  assert steps_of(tmp_path / 'cut') == [2, 4, 6, 8, 10]


def last_line(workdir):
  return json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])


@pytest.mark.long
def test_a_run_resumes_with_another_number_of_microbatches(toy, cut, whole):
  toy.run(cut, accumulate_steps=2)
  assert last_line(cut)['loss'] == pytest.approx(
    last_line(whole[0])['loss'], rel=1e-5
  )


def test_one_device_computes_what_eight_compute(toy, whole):
  _, eight = whole
  one, _ = toy.steps(devices=jax.devices()[:1], mesh={'data': 1})[-1]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    eight.params,
    one.params,
  )


@pytest.mark.long
def test_the_loss_falls_and_the_average_follows(toy):
  optimizer = {'name': 'adamw', 'learning_rate': 3e-2, 'clip_norm': 0.0}
  states, lines = zip(*toy.steps(num_steps=100, optimizer=optimizer))
  state = states[-1]
  # 16 unit weights: a target of variance 16, and 8 outputs that see half of it
  # could not halve the loss by chance.
  assert lines[0]['loss'] > 10
  assert np.mean([x['loss'] for x in lines[-20:]]) < 1
  distance = lambda a, b: np.linalg.norm(a['in']['kernel'] - b['in']['kernel'])
  init = toy.Toy().init(jax.random.split(jax.random.key(0))[0])
  assert distance(state.ema, state.params) < 0.1 * distance(init, state.params)


def test_a_finished_run_has_model_pictures_and_curve(whole):
  folder, state = whole
  with np.load(folder / 'model/model.npz') as model:
    np.testing.assert_array_equal(model['in_kernel'], state.ema['in']['kernel'])
  assert sorted(p.name for p in (folder / 'pictures').iterdir()) == [
    'step_000005.png',
    'step_000010.png',
  ]
  assert (folder / 'loss.png').read_bytes().startswith(b'\x89PNG')
  leftovers = [p.name for p in folder.rglob('.*')]
  assert leftovers == []


@pytest.mark.long
def test_without_an_average_the_params_are_exported(toy, tmp_path):
  state = toy.run(tmp_path, num_steps=3, ema_decay=0.0)
  assert state.ema is None
  again = toy.run(tmp_path, num_steps=3, ema_decay=0.0)  # Restores it, too.
  jax.tree.map(np.testing.assert_array_equal, state, again)
  with np.load(tmp_path / 'model/model.npz') as model:
    np.testing.assert_array_equal(
      model['in_kernel'], state.params['in']['kernel']
    )


@pytest.fixture(scope='module')
def skipping(toy, tmp_path_factory):
  """A run, its workdir and its state, of which 2 in 32 batches are bad.

  32 batches of 16 are the 256 rows twice: row 7 comes twice.
  """
  run = functools.partial(
    toy.run,
    tmp_path_factory.mktemp('skipping'),
    toy.Toy(poison=[7]),
    num_steps=32,
    seed=1,
  )
  return run, run(max_skipped_fraction=2 / 32)


def test_a_bad_batch_is_skipped_and_counted(skipping):
  _, state = skipping
  assert int(state.skipped) == 2
  assert int(state.step) == 32
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
  assert (
    max(x.item() for x in jax.tree.leaves(state.players) if x.dtype == np.int32)
    == 30
  )  # The optimizer's own count.


@pytest.mark.long
def test_a_bad_batch_changes_no_parameter(toy):
  state, _ = toy.steps(toy.Toy(poison=range(256)), num_steps=2)[-1]
  init = jax.jit(toy.Toy().init)(jax.random.split(jax.random.key(0))[0])
  for tree in (state.params, state.ema):
    jax.tree.map(np.testing.assert_array_equal, tree, init)


def test_too_many_bad_batches_in_a_row_stop_the_run(toy, tmp_path):
  with pytest.raises(UserError) as error:
    toy.run(tmp_path, toy.Toy(poison=range(256)), num_steps=10)
  assert error.value.key == 'max_skipped_in_a_row' and error.value.value == 3
  assert 'step 3' in str(error.value)
  assert str(tmp_path) not in str(error.value)  # No checkpoint was saved.


@pytest.mark.long
def test_a_run_that_skipped_too_many_updates_exports_no_model(
  toy, whole, tmp_path, caplog
):
  # 10 good updates, then 2 that are not finite: more than .1 of 12, in a run
  # that was cut between them.
  shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / 'model')
  poison = toy.Toy(poison=range(256))
  for _ in range(2):  # Started again, it ends in the same way.
    with pytest.raises(SkippedUpdates) as e:
      toy.run(tmp_path, poison, num_steps=12)
    assert e.value.key == 'max_skipped_fraction' and e.value.value == (2, 12)
    assert '0.1' in e.value.allowed
    assert e.value.exit_code == restarts.MISTAKE  # No restart helps.
    assert 'model' in str(e.value) and str(tmp_path) not in str(e.value)
    assert not (tmp_path / 'model').exists()
  assert steps_of(tmp_path)[-1] == 12
  # All is saved; the limit may change, and the same updates are kept.
  state = toy.run(tmp_path, poison, num_steps=12, max_skipped_fraction=0.2)
  assert (tmp_path / 'model/model.npz').exists()
  assert '2 of 12' in caplog.text
  # `sana-jax export` warns of it, too.
  assert [
    exports.skipped(exports.find(epath.Path(tmp_path), step))
    for step in (10, 12)
  ] == [0, 2]
  jax.tree.map(np.testing.assert_array_equal, whole[1].params, state.params)


def test_the_share_of_skipped_updates_is_compared_exactly(skipping):
  run, _ = skipping  # It has ended at the limit, and ends again.
  with pytest.raises(SkippedUpdates):
    run(max_skipped_fraction=2 / 32 - 1e-9)


@pytest.mark.long
def test_a_model_of_a_shorter_run_stays_and_is_named(toy, cut):
  before = (cut / 'model/model.npz').read_bytes()
  with pytest.raises(SkippedUpdates) as error:
    toy.run(cut, toy.Toy(poison=range(256)), num_steps=6)
  assert str(cut / 'model') in str(error.value)
  assert (cut / 'model/model.npz').read_bytes() == before


@pytest.mark.long
def test_a_run_stopped_by_skipped_updates_names_its_last_good_checkpoint(
  toy, half, cut
):
  with pytest.raises(UserError, match='step 9') as error:
    toy.run(cut, toy.Toy(poison=range(256)), max_skipped_in_a_row=4)
  assert error.value.key == 'max_skipped_in_a_row' and error.value.value == 4
  assert f'{cut}/checkpoints/8.' in str(error.value)
  # It holds what step 5 had, as nothing has changed since.
  state = toy.run(cut, num_steps=8, max_skipped_fraction=0.4)
  jax.tree.map(np.testing.assert_array_equal, half[1].params, state.params)


def test_a_line_has_the_speed_of_the_run_and_the_shares_of_its_time(whole):
  line = last_line(whole[0])
  assert (
    0
    < line['step_seconds/p50']
    <= line['step_seconds/p90']
    <= (line['step_seconds/p99'])
  )
  assert 0 <= line['data_wait_share'] <= 1 and 0 <= line['pause_share'] <= 1
  # 3 x 2 x 16 x (16 x 8 + 16 x 32 + 32 x 8) FLOP are 5376 an image. Those of
  # 8 chips, in 1e12 with 6 digits, may round to 0.
  assert line['images_per_second_per_chip'] > 0
  assert line['model_tflops_per_second_per_chip'] == pytest.approx(
    5376e-12 * line['images_per_second_per_chip'], abs=1e-6
  )
  assert 'mfu' not in line and 'device_memory_gib' not in line
  assert line['grad_norm/in'] ** 2 + line[
    'grad_norm/out'
  ] ** 2 == pytest.approx(line['grad_norm'] ** 2, rel=1e-5)


class Terminated:
  """A toy that gets SIGTERM when its pictures are taken at step 5."""

  def __new__(cls, toy):
    task = toy.Toy()
    task.pictures = lambda params, step: os.kill(os.getpid(), signal.SIGTERM)
    return task


@pytest.mark.long
def test_sigterm_saves_and_the_run_resumes_later(toy, tmp_path, whole):
  before = signal.getsignal(signal.SIGTERM)
  state = toy.run(tmp_path / 'cut', Terminated(toy), pictures_every_steps=5)
  assert int(state.step) == 6  # The step after the signal.
  assert signal.getsignal(signal.SIGTERM) is before
  assert (tmp_path / 'cut/checkpoints/6').exists()
  assert not (tmp_path / 'cut/model').exists()
  resumed = toy.run(tmp_path / 'cut')
  jax.tree.map(np.testing.assert_array_equal, whole[1], resumed)


def test_frozen_arrays_are_no_constants_of_the_step(toy):
  task, tx, mesh = toy.Toy(), optax.sgd(0.1), make_mesh({'data': 8})
  state = toy.planned(mesh, tx, task).state
  text = (
    jit_step(
      state,
      mesh,
      players=task.players(),
      optimizers={'model': tx},
      ema_decay=0.9,
    )
    .lower(state, Frozen(task.frozen), {'x': task.rows[:16]}, jax.random.key(0))
    .as_text()
  )
  constants = [x for x in text.splitlines() if 'stablehlo.constant' in x]
  assert constants and not any('16x8xf32' in x for x in constants)


def test_fewer_steps_than_were_made_are_refused(toy, cut):
  with pytest.raises(UserError) as error:
    toy.run(cut, num_steps=2)
  assert (error.value.key, error.value.value) == ('num_steps', 2)
  assert error.value.allowed == '5 or more'


@pytest.mark.parametrize(
  'key, value',
  [('num_steps', 0), ('batch_size', 12), ('ema_decay', 1.0)],
)
def test_an_invalid_config_raises_before_anything_is_written(
  toy, tmp_path, key, value
):
  with pytest.raises(UserError) as error:
    toy.run(tmp_path / 'run', **{key: value})
  assert (error.value.key, error.value.value) == (key, value)
  assert not (tmp_path / 'run').exists()


def test_a_run_uses_the_kernels_that_its_config_names(toy, tmp_path):
  class Gated(toy.Toy):
    def loss(self, *args):
      loss, found = super().loss(*args)
      x = jnp.ones((1, 2, 2, 8))
      y = kernels.glumb_conv(x, jnp.ones((3, 3, 8)), jnp.ones(8))
      return loss + 0 * jnp.sum(y), found

  with pytest.raises(UserError):  # No CPU runs it.
    toy.run(tmp_path / 'run', Gated(), kernels={'glumb_conv': 'mosaic_gpu'})
