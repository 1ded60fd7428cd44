"""8-bit CAME against its formulas, beside CAME, and by optax's contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sana_jax.optim import came, came_8bit
from sana_jax.optim.blockwise import Quantised
from sana_jax.sharding import rules
from sana_jax.sharding.mesh import make_mesh

SHAPES = {
  'blocks': {
    'query': {'kernel': (2, 128, 160), 'bias': (2, 160)},
    'small': {'kernel': (2, 128, 128)},
    'depthwise': {'kernel': (2, 3, 3, 2048)},
  },
  'patch': {'kernel': (1, 1, 8, 2240)},
  'head': {'kernel': (8, 2304)},
}
TABLE = [
  ('blocks/(query|small)/kernel', (None, 'fsdp', 'tensor')),
  ('(patch/kernel)', (None, None, None, 'fsdp')),
  ('head/kernel', ('tensor', 'fsdp')),
  ('.*/(bias|depthwise/kernel)', ()),
]


def normal(seed, shapes=SHAPES, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), dtype),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def run(tx, params, steps=3, update=None):
  """Updates of the last of some steps with random gradients, and the state."""
  update = update or jax.jit(tx.update)
  state = jax.jit(tx.init)(params)
  for step in range(steps):
    grads = normal(
      step, jax.tree.map(jnp.shape, params), jax.tree.leaves(params)[0].dtype
    )
    updates, state = update(grads, state, params)
  return updates, state


@functools.cache
def three_steps():
  """Updates of the third step, of all parameters."""
  return run(came_8bit(0.01), normal(0))[0]


def distance(a, b):
  """Distance of two trees, relative to the second."""
  a, b = (
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(tree))])
    for tree in (a, b)
  )
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def blocks_of(shape, blocks):
  """Slices of the blocks of a matrix, by hand for the shapes here."""
  rows, columns = shape
  if blocks == 'rows':
    return [np.s_[:, i : i + 2048] for i in range(0, columns, 2048)]
  # 12 rows of 160 are at most 2048 too, but do not divide 128; 8 do.
  r, c = {(128, 160): (8, 160), (8, 2240): (1, 1120), (8, 2304): (1, 1152)}[
    shape
  ]
  return [
    np.s_[i : i + r, j : j + c]
    for i in range(0, rows, r)
    for j in range(0, columns, c)
  ]


def written_formulas(g, m, stats):
  """One step of CAME for a matrix in float64: update, m and statistics."""
  row, col, res_row, res_col = stats
  approx = lambda r, c: 1 / np.sqrt(np.outer(r, c) / r.mean())
  row = 0.999 * row + 0.001 * (g**2 + 1e-30).mean(1)
  col = 0.999 * col + 0.001 * (g**2 + 1e-30).mean(0)
  u = g * approx(row, col)
  u = u / max(1, np.sqrt((u**2).mean()))
  m = 0.9 * m + 0.1 * u
  r = (u - m) ** 2 + 1e-16
  res_row = 0.9999 * res_row + 0.0001 * r.mean(1)
  res_col = 0.9999 * res_col + 0.0001 * r.mean(0)
  return approx(res_row, res_col) * m, m, (row, col, res_row, res_col)


@pytest.mark.parametrize('blocks', ['elements', 'rows'])
@pytest.mark.parametrize('shape', [(128, 160), (8, 2240), (8, 2304)], ids=str)
def test_steps_are_those_of_the_written_formulas(shape, blocks):
  # The stored m is read back by hand, so that one byte more or less at a tie
  # does not count; what is stored is within half a scale of the formulas' m.
  tx = came_8bit(1.0, blocks=blocks)
  state, update = jax.jit(tx.init)(jnp.zeros(shape)), jax.jit(tx.update)
  m, stats = np.zeros(shape), (np.zeros(shape[0]), np.zeros(shape[1])) * 2
  for step in range(5):
    g = np.asarray(normal(step, shape), np.float64)
    expected, exact, stats = written_formulas(g, m, stats)
    updates, state = update(jnp.asarray(g, jnp.float32), state, g * 0)
    np.testing.assert_allclose(updates, -expected, rtol=2e-5, atol=2e-5)
    m = np.zeros(shape)
    stored = state[0].mu
    low, scale = (np.ravel(x).astype(float) for x in stored[1:])
    for i, there in enumerate(blocks_of(shape, blocks)):
      block = exact[there]
      assert scale[i] == pytest.approx((block.max() - block.min()) / 255, 1e-4)
      m[there] = stored.q[there] * scale[i] + low[i]
      assert np.abs(m[there] - block).max() <= 0.501 * scale[i]


def test_large_matrices_alone_are_in_bytes():
  mu = jax.eval_shape(came_8bit(0.1).init, normal(0))[0].mu
  kinds = jax.tree.map(
    lambda x: x[0].dtype.name if isinstance(x, Quantised) else x.dtype.name,
    mu,
    is_leaf=lambda x: isinstance(x, Quantised),
  )
  assert kinds == {
    'blocks': {
      'query': {'kernel': 'uint8', 'bias': 'float32'},
      'small': {'kernel': 'float32'},  # 128 x 128 is not above.
      'depthwise': {'kernel': 'float32'},
    },
    'patch': {'kernel': 'uint8'},
    'head': {'kernel': 'uint8'},
  }
  assert mu['blocks']['query']['kernel'].q.shape == (2, 128, 160)


def test_a_matrix_without_proper_blocks_stays_float32():
  mu = jax.eval_shape(came_8bit(0.1).init, jnp.zeros((16411, 2)))[0].mu
  assert mu.dtype == jnp.float32


@pytest.mark.parametrize('blocks, ranges', [('elements', 2 * 16), ('rows', 2)])
def test_a_state_has_a_byte_an_element_and_eight_a_block(blocks, ranges):
  params = {'blocks': {'kernel': jnp.zeros((2, 128, 160))}}
  state = jax.eval_shape(came_8bit(0.1, blocks=blocks).init, params)
  statistics = 2 * 2 * 4 * (128 + 160)  # Four vectors a layer, in float32.
  count = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert count == (2 * 128 * 160 + 8 * ranges + statistics)


@pytest.mark.long
def test_it_stays_near_came_where_that_converges():
  # A noisy regression; both end at its solution, and near each other before.
  rng = np.random.default_rng(1)
  goal = jnp.asarray(rng.normal(size=(128, 160)), jnp.float32)

  def trained(make):
    """A function of the number of steps, compiled once."""

    def train(steps):
      # Half a cosine from 0.04 to 0.
      tx = make(lambda count: 0.02 * (1 + jnp.cos(jnp.pi * count / steps)))

      def step(i, carry):
        x, state = carry
        key = jax.random.fold_in(jax.random.key(0), i)
        inputs = jax.random.normal(key, (64, 128))
        loss = lambda x: jnp.mean((inputs @ (x - goal)) ** 2)
        updates, state = tx.update(jax.grad(loss)(x), state, x)
        return optax.apply_updates(x, updates), state

      start = jnp.zeros((128, 160))
      return jax.lax.fori_loop(0, steps, step, (start, tx.init(start)))[0]

    return jax.jit(train)

  plain, elements, rows = map(
    trained,
    (came, came_8bit, functools.partial(came_8bit, blocks='rows')),
  )
  for steps in 20, 200:
    want = plain(steps)
    assert distance(elements(steps), want) < 0.02
    assert distance(rows(steps), want) < 0.02
  assert distance(want, goal) < 0.1


@pytest.mark.long
def test_zero_gradients_give_zero_updates():
  params = normal(0)
  tx = came_8bit(0.1)
  updates, _ = jax.jit(lambda g: tx.update(g, tx.init(params), params))(
    jax.tree.map(np.zeros_like, params)
  )
  assert all(np.all(u == 0) for u in jax.tree.leaves(updates))


@jax.jit
def train(params, rate):
  """60 steps, with gradients over the range that bfloat16 has, rows of zeros
  among them."""
  tx = came_8bit(rate, weight_decay=0.01)

  def step(carry, key):
    params, state = carry
    one, two = jax.random.split(key)
    size = jnp.exp(jax.random.uniform(one, (), minval=-60.0, maxval=20.0))
    grads = jax.tree.map(
      lambda p: (
        (size * jax.random.normal(two, p.shape))
        .astype(p.dtype)
        .at[..., 0]
        .set(0)
      ),
      params,
    )
    updates, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), optax.tree.norm(
      updates
    )

  keys = jax.random.split(jax.random.key(0), 60)
  return jax.lax.scan(step, (params, tx.init(params)), keys)


@pytest.mark.long
@pytest.mark.parametrize('rate', [1e-6, 1e-4])
def test_no_rate_of_training_gives_nan_in_bfloat16(rate):
  # Matrices of bytes and of float32, and a vector.
  shapes = {'bytes': (128, 160), 'small': (8, 16), 'vector': (160,)}
  (params, state), norms = train(normal(0, shapes, jnp.bfloat16), rate)
  assert np.isfinite(norms).all() and norms[-1] > 0
  for x in jax.tree.leaves((params, state)):
    assert np.isfinite(np.asarray(x, np.float32)).all()


@pytest.mark.long
@pytest.mark.parametrize(
  'make, mesh',
  [
    (came, {'fsdp': 2, 'tensor': 4}),
    (came_8bit, {'fsdp': 8}),
    (came_8bit, {'fsdp': 2, 'tensor': 4}),
    (lambda rate: came_8bit(rate, blocks='rows'), {'fsdp': 2, 'tensor': 4}),
  ],
  ids=['came', 'elements_of_rows', 'elements', 'rows'],
)
def test_a_mesh_computes_what_one_device_does(make, mesh):
  # Of 8 bits: sums in another order turn a value between two bytes to the
  # other one. Up to two turned; each moved the next updates by up to 7e-5.
  bound = 1e-6 if make is came else 3e-4
  mesh, params, tx = make_mesh(mesh), normal(0), make(0.01)
  places = rules.shardings(params, TABLE, mesh)
  state_places = rules.state_shardings(tx, params, places, mesh)
  update = jax.jit(
    tx.update, out_shardings=(places, state_places), donate_argnums=1
  )
  state = jax.jit(tx.init, out_shardings=state_places)(
    jax.device_put(params, places)
  )
  expected_state, alone = jax.jit(tx.init)(params), jax.jit(tx.update)
  for step in range(4):
    grads = normal(step)
    expected, expected_state = alone(grads, expected_state, params)
    updates, state = update(
      jax.device_put(grads, places), state, jax.device_put(params, places)
    )
    assert distance(updates, expected) < bound
  assert jax.tree.map(lambda x: x.sharding, state) == state_places
  jax.tree.map(_same_to_rounding, state, expected_state)


def _same_to_rounding(a, b):
  a, b = np.asarray(a), np.asarray(b)
  if a.dtype == np.uint8:  # A value between two bytes may go to either.
    apart = np.abs(a.astype(int) - b)
    assert apart.max() <= 1 and apart.mean() < 1e-3
  else:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3 * np.abs(b).max())


def test_bytes_take_the_place_of_their_parameter():
  mesh, params = make_mesh({'fsdp': 2, 'tensor': 4}), normal(0)
  places = rules.shardings(params, TABLE, mesh)
  state = rules.state_shardings(came_8bit(0.1), params, places, mesh)[0]
  for layer in ('patch', 'head'):
    stored = state.mu[layer]['kernel']
    assert stored.q == places[layer]['kernel']
    assert stored.low.spec == stored.scale.spec == jax.P()


def test_updates_keep_their_dtype():
  updates, state = run(came_8bit(0.1), normal(0, dtype=jnp.bfloat16))
  assert {u.dtype.name for u in jax.tree.leaves(updates)} == {'bfloat16'}
  assert {s.dtype.name for s in jax.tree.leaves(state)} == {'float32', 'uint8'}


def test_the_second_call_does_not_recompile():
  traces = []
  tx = came_8bit(1e-3)

  def update(*args):
    traces.append(0)
    return tx.update(*args)

  run(tx, normal(0), update=jax.jit(update))
  assert len(traces) == 1


def test_hyperparameters_can_be_injected():
  params = normal(0)
  injected = optax.inject_hyperparams(came_8bit)(learning_rate=0.01)
  # Injected decays are float32: 1 - b3 is off by 2e-4 of itself.
  assert distance(run(injected, params)[0], three_steps()) < 3e-4


@pytest.mark.long
def test_accumulated_steps_are_steps_of_the_mean_gradient():
  params, tx = normal(0), came_8bit(0.01)
  updates, _ = run(optax.MultiSteps(tx, 2), params, steps=2)
  mean = jax.tree.map(
    lambda a, b: np.float32((np.float64(a) + b) / 2), normal(0), normal(1)
  )
  alone = jax.jit(lambda g: tx.update(g, tx.init(params), params)[0])
  assert distance(updates, alone(mean)) < 1e-5


def test_it_can_be_masked():
  params, trained = normal(0), ('patch', 'head')
  mask = {k: k in trained for k in params}
  updates, _ = run(optax.masked(came_8bit(0.01), mask), params)
  full, grads = three_steps(), normal(2)
  expected = {k: (full if mask[k] else grads)[k] for k in params}
  assert distance(updates, expected) < 1e-5
