"""CAME against the published package, over 100 steps of two matrices.

The package factors what SANA's variant does not, so matrices only; there the
two agree. Vectors agree as well: neither factors them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sana_jax.optim import came

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
came_pytorch = pytest.importorskip('came_pytorch')

STEPS = 100
SETTINGS = dict(learning_rate=1e-2, weight_decay=0.1)


def problem():
  """A random linear regression, whose gradients shrink and turn."""
  rng = np.random.default_rng()
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  params = {'first': draw(12, 7), 'second': draw(7, 5), 'bias': draw(5)}
  return params, draw(STEPS, 32, 12), draw(STEPS, 32, 5)


def loss(params, x, y):
  out = x @ params['first'] @ params['second'] + params['bias'] - y
  return (out * out).mean()


def ours(params, xs, ys):
  tx = came(**SETTINGS)

  def step(carry, batch):
    params, state = carry
    grads = jax.grad(loss)(params, *batch)
    updates, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None
  params = jax.tree.map(jnp.asarray, params)
  return jax.lax.scan(step, (params, tx.init(params)), (xs, ys))[0][0]


def theirs(params, xs, ys):
  params = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
  optimizer = came_pytorch.CAME(
    params.values(), lr=SETTINGS['learning_rate'],
    weight_decay=SETTINGS['weight_decay'])
  for x, y in zip(xs, ys):
    optimizer.zero_grad()
    loss(params, torch.from_numpy(x), torch.from_numpy(y)).backward()
    optimizer.step()
  return {k: v.detach().numpy() for k, v in params.items()}


def test_100_steps_end_where_the_published_package_ends():
  params, xs, ys = problem()
  expected, actual = theirs(params, xs, ys), ours(params, xs, ys)
  for name, value in expected.items():
    moved = np.linalg.norm(value - params[name]) / np.linalg.norm(value)
    error = np.linalg.norm(actual[name] - value) / np.linalg.norm(value)
    assert moved > 0.1
    assert error <= 1e-4, (name, error)
