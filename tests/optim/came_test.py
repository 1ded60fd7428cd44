"""CAME by hand, on stacks, and by optax's contract for optimizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sana_jax.optim import came, scale_by_came

pytestmark = pytest.mark.fast

P = jax.sharding.PartitionSpec
SHAPES = {
  'blocks': {
    'query': {'kernel': (3, 4, 6), 'bias': (3, 6)},
    'depthwise': {'kernel': (3, 3, 3, 4)},
  },
  'embed': (5, 4),
}


def normal(seed, shapes, dtype=jnp.float32):
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
  shapes = jax.tree.map(jnp.shape, params)
  for step in range(steps):
    grads = normal(step, shapes, jax.tree.leaves(params)[0].dtype)
    updates, state = update(grads, state, params)
  return updates, state


@functools.cache
def three_steps():
  """Updates of the third step with a rate of 0.01."""
  return run(came(0.01), normal(0, SHAPES))[0]


def assert_close(a, b, rtol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b
  )


def test_one_step_of_a_matrix_by_hand():
  # g^2 = [[1, 9], [4, 16]]; 0.001 times its row means 5, 10 and column means
  # 2.5, 12.5. approx = (R C / mean R)^-1/2 with mean R = 0.0075.
  g = np.array([[1.0, 3.0], [-2.0, 4.0]])
  row, col = 0.001 * np.array([5, 10]), 0.001 * np.array([2.5, 12.5])
  u = (
    g
    / np.sqrt(
      [[row[0] * col[0], row[0] * col[1]], [row[1] * col[0], row[1] * col[1]]]
    )
    * np.sqrt(0.0075)
  )
  u /= np.sqrt((u**2).sum() / 4)  # Its root mean square is some 30, above 1.
  m = 0.1 * u
  r = (0.9 * u) ** 2
  row, col = 0.0001 * r.mean(1), 0.0001 * r.mean(0)
  expected = m / np.sqrt(np.outer(row, col) / row.mean())
  tx = scale_by_came()
  updates, state = jax.jit(tx.update)(
    jnp.asarray(g, jnp.float32), jax.jit(tx.init)(jnp.ones((2, 2)))
  )
  np.testing.assert_allclose(updates, expected, rtol=1e-5)
  np.testing.assert_allclose(state.row, [0.005, 0.010], rtol=1e-5)
  np.testing.assert_allclose(state.col, [0.0025, 0.0125], rtol=1e-5)


def test_one_step_of_a_vector_by_hand():
  # V = 0.001 g^2, so u = sign(g) / sqrt(0.001), clipped to +-1; m = 0.1 u.
  tx = scale_by_came()
  first = jax.jit(lambda g: tx.update(g, tx.init(g))[0])
  updates = first(jnp.array([3.0, -4.0]))
  np.testing.assert_allclose(updates, [0.1, -0.1], rtol=1e-6)


def test_a_stack_is_its_layers_one_by_one():
  params = normal(0, SHAPES)
  tx = scale_by_came()
  stacked, update = run(tx, params)[0]['blocks'], jax.jit(tx.update)
  init = jax.jit(tx.init)
  of = lambda i, tree: jax.tree.map(lambda x: np.asarray(x)[i], tree['blocks'])

  def layer(i):
    state = init(of(i, params))
    for step in range(3):
      updates, state = update(of(i, normal(step, SHAPES)), state)
    return updates

  for i in range(3):
    assert_close(of(i, {'blocks': stacked}), layer(i))


def test_matrices_alone_are_factored():
  state = jax.eval_shape(scale_by_came().init, normal(0, SHAPES))
  row = jax.tree.map(lambda x: x.shape, state.row)
  none = optax.MaskedNode()
  assert row == {
    'blocks': {
      'query': {'kernel': (3, 4), 'bias': none},
      'depthwise': {'kernel': none},
    },
    'embed': (5,),
  }
  assert state.col['blocks']['query']['kernel'].shape == (3, 6)
  assert state.nu['blocks']['depthwise']['kernel'].shape == (3, 3, 3, 4)
  assert state.nu['embed'] == none


@pytest.mark.parametrize('name', ['patch', 'blocks/patch'])
def test_a_1x1_convolution_is_a_matrix(name):
  # As in NVlabs/Sana, which squeezes the kernel of its patch embedding.
  tx, grads = scale_by_came(), normal(0, {'w': (5, 4)})
  lead = (1, 1, 1) if name.startswith('blocks') else (1, 1)
  convolution = {name: grads['w'].reshape(*lead, 5, 4)}
  first = jax.jit(lambda grads: tx.update(grads, tx.init(grads)))
  (matrix, _), (updates, state) = first(grads), first(convolution)
  np.testing.assert_allclose(updates[name].reshape(5, 4), matrix['w'])
  assert state.row[name].size == 5 and state.col[name].size == 4


def test_orientation_does_not_matter():
  params = normal(0, (5, 3))
  tx = scale_by_came()
  update, init = jax.jit(tx.update), jax.jit(tx.init)
  a, b = init(params), init(params.T)
  for step in range(3):
    g = normal(step, (5, 3))
    (u, a), (v, b) = update(g, a), update(g.T, b)
  np.testing.assert_allclose(u, v.T, rtol=1e-5)


def test_a_spike_beside_rows_without_gradient_is_no_nan():
  params = {'kernel': jnp.ones((4, 4))}
  tx = came(1e-4)
  state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
  for size in 1.0, 1e5, 1e10, 1.0:
    grads = {'kernel': np.zeros((4, 4), np.float32)}
    grads['kernel'][0] = size
    updates, state = update(grads, state, params)
    assert np.isfinite(updates['kernel']).all()
    # Rows without a gradient do not move.
    assert np.all(updates['kernel'][1:] == 0)


def test_zero_gradients_give_zero_updates():
  params = normal(0, SHAPES)
  tx = scale_by_came()
  updates, _ = jax.jit(lambda g: tx.update(g, tx.init(params)))(
    jax.tree.map(np.zeros_like, params)
  )
  assert all(np.all(u == 0) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
  'name, start, goal, loss',
  [
    (
      'parabola',
      [[-1.0, 10.0], [1.0, 2.0]],
      [[1.0, -1.0], [1.0, 1.0]],
      lambda x: jnp.sum((x - jnp.array([[1.0, -1.0], [1.0, 1.0]])) ** 2),
    ),
    (
      'rosenbrock',
      [0.0, 0.0],
      [1.0, 1.0],
      lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2,
    ),
  ],
)
def test_it_converges(name, start, goal, loss):
  steps = 4000
  tx = came(optax.cosine_decay_schedule(0.02, steps))

  @jax.jit
  def train(x):
    def step(_, carry):
      x, state = carry
      updates, state = tx.update(jax.grad(loss)(x), state, x)
      return optax.apply_updates(x, updates), state

    return jax.lax.fori_loop(0, steps, step, (x, tx.init(x)))[0]

  np.testing.assert_allclose(train(jnp.array(start)), goal, atol=0.02)


def test_weight_decay_is_decoupled_and_follows_the_rate():
  params = normal(0, SHAPES)
  decayed, _ = run(came(0.01, weight_decay=0.5), params)
  expected = jax.tree.map(
    lambda u, p: u - 0.01 * 0.5 * p, *jax.device_get((three_steps(), params))
  )
  assert_close(decayed, expected)


def test_the_second_call_does_not_recompile():
  traces = []
  tx = came(1e-3)

  def update(*args):
    traces.append(0)
    return tx.update(*args)

  run(tx, normal(0, SHAPES), update=jax.jit(update))
  assert len(traces) == 1


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_updates_keep_their_dtype_and_the_state_is_float32(dtype):
  updates, state = run(scale_by_came(), normal(0, SHAPES, dtype))
  assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
  assert {s.dtype for s in jax.tree.leaves(state)} == {jnp.dtype('float32')}


def test_hyperparameters_can_be_injected():
  params = normal(0, SHAPES)
  injected = optax.inject_hyperparams(came)(learning_rate=0.01)
  # Injected decays are float32: 1 - b3 is off by 2e-4 of itself.
  assert_close(run(injected, params)[0], three_steps(), rtol=2e-4)


def test_accumulated_steps_are_steps_of_the_mean_gradient():
  params = normal(0, SHAPES)
  multi = optax.MultiSteps(came(0.01), 2)
  updates, _ = run(multi, params, steps=2)
  tx = came(0.01)
  alone = jax.jit(
    lambda a, b: tx.update(
      jax.tree.map(lambda a, b: (a + b) / 2, a, b), tx.init(params), params
    )[0]
  )
  assert_close(updates, alone(normal(0, SHAPES), normal(1, SHAPES)))


@pytest.mark.parametrize('trained', [('embed',), ()])
def test_it_can_be_masked(trained):
  params = normal(0, SHAPES)
  mask = {k: k in trained for k in params}
  updates, _ = run(optax.masked(came(0.01), mask), params)
  full, grads = three_steps(), normal(2, SHAPES)
  assert_close(updates, {k: (full if mask[k] else grads)[k] for k in params})


def test_eight_devices_compute_what_one_does():
  shapes = {'blocks': {'kernel': (2, 16, 8), 'bias': (2, 8)}}
  specs = {'blocks': {'kernel': P(None, 'fsdp', None), 'bias': P(None, 'fsdp')}}
  mesh = jax.make_mesh(
    (8,), ('fsdp',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  tx, params = came(0.01), normal(0, shapes)
  on_mesh = lambda tree: jax.tree.map(
    lambda x, spec: jax.device_put(x, jax.NamedSharding(mesh, spec)),
    tree,
    specs,
  )
  update = jax.jit(lambda g, *args: tx.update(on_mesh(g), *args))
  updates, state = run(tx, on_mesh(params), update=update)
  expected, expected_state = run(tx, params)
  assert_close(updates, expected)
  assert_close(state, expected_state)


def test_shardings_of_the_state_can_be_derived_from_those_of_parameters():
  # As optax documents it; masked places are leaves, statistics are replicated.
  params = normal(0, SHAPES)
  tx = came(0.01)
  spec = jax.tree.map(lambda p: P(*'abcd'[: p.ndim]), params)
  derived = optax.tree.map_params(
    tx,
    lambda s, p, spec: (
      s
      if isinstance(s, optax.MaskedNode)
      else (spec if s.shape == p.shape else P())
    ),
    tx.init(params),
    params,
    spec,
    is_leaf=lambda x: isinstance(x, optax.MaskedNode),
  )[0]
  assert derived.mu == spec
  assert derived.row['embed'] == P()
  assert derived.nu['blocks']['query']['bias'] == P('a', 'b')
