"""A run whose parameters are stored in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import config as configs
from sana_jax import tasks
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training import optimizers
from sana_jax.training.state import Frozen, plan
from sana_jax.training.step import jit_step


def dtypes(tree):
  return {x.dtype.name for x in jax.tree.leaves(tree)}


@pytest.mark.parametrize(
  'name', ['adamw', pytest.param('came', marks=pytest.mark.slow), 'came_8bit']
)
def test_a_resumed_run_is_the_uninterrupted_run(toy, tmp_path, name):
  changes = dict(
    param_dtype='bfloat16',
    optimizer={'name': name, 'learning_rate': 1e-2, 'clip_norm': 0.0},
  )
  whole = toy.run(tmp_path / 'whole', num_steps=10, **changes)
  toy.run(tmp_path / 'cut', num_steps=5, **changes)
  resumed = toy.run(tmp_path / 'cut', num_steps=10, **changes)
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  assert dtypes(resumed.params) == {'bfloat16'}
  assert dtypes(resumed.ema) == {'float32'}
  assert 'bfloat16' not in dtypes(resumed.players)


def test_steps_too_small_for_bfloat16_still_teach(toy, tmp_path):
  # Lion's steps are the rate: 2e-4 is below half the spacing of bfloat16 at
  # sizes above 0.125, where rounding to the nearest would not move. The
  # initial kernels have a deviation of 0.2.
  reached = {}
  for dtype in ('float32', 'bfloat16'):
    state = toy.run(
      tmp_path / dtype,
      num_steps=200,
      param_dtype=dtype,
      checkpoint_every_steps=200,
      optimizer={
        'name': 'lion',
        'learning_rate': 2e-4,
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
  step = jit_step(
    planned.state,
    mesh,
    players=objective.players,
    optimizers=txs,
    ema_decay=0.9,
  )
  ones = lambda tree: jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), tree)
  with jax.set_mesh(mesh):
    state, metrics = step(
      planned.init(jax.random.key(0)),
      Frozen(ones(objective.frozen())),
      ones(objective.batch(8)),
      jax.random.key(1),
    )
  assert dtypes(state.params) == {'bfloat16'}
  assert np.isfinite(metrics['loss']) and int(state.skipped) == 0
  assert metrics['grad_norm'].dtype == np.float32
