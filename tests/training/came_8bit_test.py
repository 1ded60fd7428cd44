"""A run whose optimizer's state is partly bytes: kept, resumed, guarded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.optim.blockwise import Quantised

CAME_8BIT = {'name': 'came_8bit', 'learning_rate': 1e-3, 'clip_norm': 0.0}


def wide_toy(toy, **options):
  """A toy whose first kernel has 32,768 elements, and so m in bytes."""
  task = toy.Toy(**options)

  def init(rng):
    one, two = jax.random.split(rng)
    layer = lambda rng, i, o: {
      'kernel': 0.02 * jax.random.normal(rng, (i, o)),
      'bias': jnp.zeros(o),
    }
    return {'in': layer(one, 16, 2048), 'out': layer(two, 2048, 8)}

  task.init = init
  return task


def stored(state):
  return state.players['model'].opt_state[0].mu['in']['kernel']


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_run(toy, tmp_path):
  changes = dict(optimizer=CAME_8BIT, param_dtype='bfloat16')
  whole = toy.run(tmp_path / 'whole', wide_toy(toy), **changes)
  resumed = toy.resume(
    tmp_path / 'whole', tmp_path / 'cut', 8, wide_toy(toy), **changes
  )
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  mu = stored(resumed)
  assert isinstance(mu, Quantised) and mu.q.dtype == np.uint8
  assert len(np.unique(mu.q)) > 100
  assert mu.q.addressable_shards[0].data.shape == (16, 512)
  assert mu.low.sharding.is_fully_replicated
  assert {x.dtype.name for x in jax.tree.leaves(resumed.params)} == {'bfloat16'}


@pytest.mark.long
def test_a_run_resumes_on_one_device(toy, tmp_path):
  changes = dict(optimizer=CAME_8BIT, checkpoint_every_steps=5)
  whole = toy.run(tmp_path / 'whole', wide_toy(toy), **changes)
  one = toy.resume(
    tmp_path / 'whole',
    tmp_path / 'cut',
    5,
    wide_toy(toy),
    mesh={'data': 1},
    devices=jax.devices()[:1],
    **changes,
  )
  for a, b in zip(
    *map(jax.tree.leaves, jax.device_get((one.params, whole.params)))
  ):
    # A value between two bytes may go to either, where sums are of another
    # order: a few of ten thousand do, and move by a part of the rate.
    assert np.mean(np.abs(a - b) > 1e-5) < 2e-3
    assert np.abs(a - b).max() < 1e-3


@pytest.mark.long
def test_a_bad_batch_changes_no_byte(toy):
  poison = wide_toy(toy, poison=range(256))
  state, _ = toy.steps(poison, num_steps=2, optimizer=CAME_8BIT)[-1]
  assert int(state.skipped) == 2
  assert all(not np.any(x) for x in stored(state))
