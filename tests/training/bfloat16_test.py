"""A run whose parameters are stored in bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import config as configs
from sana_jax import tasks
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training import optimizers
from sana_jax.training.state import Frozen, plan
from sana_jax.training.step import gradients, jit_step


def dtypes(tree):
  return {x.dtype.name for x in jax.tree.leaves(tree)}


@pytest.mark.parametrize(
  'name',
  [
    # And 8-bit CAME in came_8bit_test.py.
    pytest.param('adamw', marks=pytest.mark.long),
    *(pytest.param(x, marks=pytest.mark.slow) for x in ('came', 'came_8bit')),
  ],
)
def test_a_resumed_run_is_the_uninterrupted_run(toy, tmp_path, name):
  changes = dict(
    param_dtype='bfloat16',
    optimizer={'name': name, 'learning_rate': 1e-2, 'clip_norm': 0.0},
  )
  whole = toy.run(tmp_path / 'whole', **changes)
  resumed = toy.resume(tmp_path / 'whole', tmp_path / 'cut', 8, **changes)
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  assert dtypes(resumed.params) == {'bfloat16'}
  assert dtypes(resumed.ema) == {'float32'}
  assert 'bfloat16' not in dtypes(resumed.players)


@pytest.mark.long
def test_steps_too_small_for_bfloat16_still_teach(toy):
  # Lion's steps are the rate: 4e-4 is below half the spacing of bfloat16 at
  # sizes above 0.125, where rounding to the nearest would not move. The
  # initial kernels have a deviation of 0.2.
  reached = {}
  for dtype in ('float32', 'bfloat16'):
    *_, (state, _) = toy.steps(
      num_steps=120,
      param_dtype=dtype,
      optimizer={
        'name': 'lion',
        'learning_rate': 4e-4,
        'b2': 0.99,
        'clip_norm': 0.0,
      },
    )
    reached[dtype] = distances(toy, state.ema)
  start = distances(toy, toy.Toy().init(jax.random.split(jax.random.key(0))[0]))
  assert reached['float32'] < 0.9 * start
  assert reached['bfloat16'] == pytest.approx(reached['float32'], rel=0.02)


def distances(toy, params):
  """Distances from the map that the toy learns."""
  made = params['in']['kernel'] @ params['out']['kernel']
  return float(jnp.linalg.norm(made - toy.Toy().frozen['target']))


@pytest.mark.long
def test_a_step_of_the_transformer_keeps_its_types():
  config = configs.train('sana').unlock()
  config.dtype = 'bfloat16'
  config.model = dict(
    width=64, depth=1, cross_heads=2, sample_size=4, caption_channels=8
  )
  config.inputs.text_length = 5
  objective = tasks.objective(config)
  mesh = make_mesh({'data': 2}, jax.devices()[:2])
  txs = optimizers.make(config, objective)
  planned = plan(objective, txs, mesh, param_dtype='bfloat16')
  frozen, batch = objective.frozen(), objective.batch(8)
  with jax.set_mesh(mesh):
    state, metrics = jit_step(
      planned.state,
      mesh,
      players=objective.players,
      optimizers=txs,
      ema_decay=0.9,
    ).eval_shape(planned.state, Frozen(frozen), batch, jax.random.key(1))
  assert dtypes(state.params) == {'bfloat16'}
  assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(
    lambda x: x.dtype, planned.state
  )
  assert metrics['grad_norm'].dtype == np.float32
  ones = lambda tree: jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), tree)
  draw = np.random.default_rng(0).normal
  params = jax.tree.map(
    lambda x: jnp.asarray(0.1 * draw(size=x.shape), x.dtype),
    planned.state.params,
  )
  found, grads = jax.jit(
    functools.partial(gradients, objective.loss, step=0, accumulate=1)
  )(
    params,
    {},
    ones(frozen),
    ones(batch),
    jax.random.split(jax.random.key(1), 8),
  )
  assert dtypes(grads) == {'float32'}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((found, grads)))
