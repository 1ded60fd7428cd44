"""Discriminator heads: spectral norms, virtual batches, circular padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models import ladd
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import BATCH_AXES, make_mesh

pytestmark = pytest.mark.fast

TOKENS, WIDTH = 12, 8


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def features(count, heads=2):
  return tuple(normal(count, TOKENS, WIDTH, seed=i) for i in range(heads))


@functools.cache
def drawn(heads):
  """Variables after a power iteration, with scales and biases that matter."""
  made = jax.jit(heads.init)(jax.random.key(0), features(1))
  leaves, treedef = jax.tree.flatten(made['params'])
  params = treedef.unflatten(
    x + 0.3 * normal(*x.shape, seed=i) if x.ndim == 1 else x
    for i, x in enumerate(leaves)
  )
  if 'spectral' not in made:
    return {'params': params}
  return {
    'params': params,
    'spectral': jax.jit(heads.renewed)(params, made['spectral']),
  }


@functools.partial(jax.jit, static_argnums=0)
def score(heads, variables, features):
  return heads.apply(variables, features)


BATCH = ladd.Heads()
LAYER = ladd.Heads(norm='layer', spectral=False)


def logits(heads, features):
  return np.asarray(score(heads, drawn(heads), features))


@pytest.mark.parametrize('heads', [BATCH, LAYER], ids=['batch', 'layer'])
def test_each_token_has_a_logit_of_each_head_one_head_after_another(heads):
  first, second = features(3)
  whole = logits(heads, (first, second))
  assert whole.shape == (3, 2 * TOKENS)
  other = logits(heads, (first, second + 1.7 * second**2))
  np.testing.assert_allclose(whole[:, :TOKENS], other[:, :TOKENS], rtol=1e-5)
  assert np.all(whole[:, TOKENS:] != other[:, TOKENS:])


def as_matrix(kernel):
  """[o, c k], as torch has it."""
  return (
    np.asarray(kernel, np.float64)
    .transpose(2, 1, 0)
    .reshape(kernel.shape[2], -1)
  )


def as_vector(v):
  return np.asarray(v, np.float64).T.ravel()


def test_sigma_becomes_the_largest_singular_value():
  variables = drawn(BATCH)
  params, spectral = variables['params'], variables['spectral']
  many = jax.jit(
    lambda spectral: jax.lax.fori_loop(
      0, 2000, lambda _, s: ladd.renewed(params, s), spectral
    )
  )(spectral)
  for head in ('head_0', 'head_1'):
    for name in ('first', 'second', 'out'):
      kernel = params[head][name]['kernel']
      want = np.linalg.svd(as_matrix(kernel), compute_uv=False)[0]
      got = ladd.sigma(kernel, **many[head][name])
      np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_renewal_is_one_power_iteration():
  params, spectral = drawn(BATCH)['params'], drawn(BATCH)['spectral']
  got = jax.jit(ladd.renewed)(params, spectral)
  assert jax.tree.structure(got) == jax.tree.structure(spectral)
  w = as_matrix(params['head_1']['second']['kernel'])
  v = w.T @ np.asarray(spectral['head_1']['second']['u'], np.float64)
  v /= np.linalg.norm(v)
  u = w @ v / np.linalg.norm(w @ v)
  np.testing.assert_allclose(got['head_1']['second']['u'], u, rtol=1e-4)
  np.testing.assert_allclose(
    as_vector(got['head_1']['second']['v']), v, rtol=1e-4, atol=1e-6
  )


def test_heads_without_spectral_norm_have_nothing_to_renew():
  assert set(drawn(LAYER)) == {'params'}
  assert ladd.renewed(drawn(LAYER)['params'], {}) == {}
  np.testing.assert_array_equal(
    score(LAYER, drawn(LAYER) | {'spectral': {}}, features(2)),
    logits(LAYER, features(2)),
  )


def test_new_vectors_give_a_positive_sigma():
  made = jax.jit(BATCH.init)(jax.random.key(3), features(1))
  for name in ('first', 'second', 'out'):
    kernel = made['params']['head_0'][name]['kernel']
    vectors = made['spectral']['head_0'][name]
    np.testing.assert_allclose(np.linalg.norm(vectors['u']), 1, rtol=1e-5)
    want = np.linalg.norm(as_matrix(kernel).T @ np.float64(vectors['u']))
    np.testing.assert_allclose(ladd.sigma(kernel, **vectors), want, rtol=1e-5)


def test_the_gradient_of_sigma_is_the_outer_product_of_its_vectors():
  kernel, u, v = normal(3, 4, 5), normal(5, seed=1), normal(3, 4, seed=2)
  by_kernel, *by_vectors = jax.jit(jax.grad(ladd.sigma, (0, 1, 2)))(
    kernel, u, v
  )
  want = np.einsum('kc,o->kco', v, u)
  np.testing.assert_allclose(by_kernel, want, rtol=1e-5)
  assert not any(np.any(x) for x in by_vectors)


def test_the_scale_of_a_kernel_is_removed():
  """With vectors of the same kernel; the last bias is not scaled."""
  variables = drawn(BATCH)
  scaled = jax.tree.map(
    lambda x: 7 * x if x.ndim == 3 else x, variables['params']
  )
  np.testing.assert_allclose(
    score(BATCH, variables | {'params': scaled}, features(2)),
    logits(BATCH, features(2)),
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize(
  'count, most, sizes',
  [
    (16, 8, [8, 8]),
    (20, 8, [7, 7, 6]),
    (9, 8, [5, 4]),
    (25, 8, [7, 7, 7, 4]),
    (5, 2, [2, 2, 1]),
    (3, 8, [3]),
    (3, 1, [1, 1, 1]),
  ],
)
def test_virtual_batches_have_the_sizes_of_torch_chunks(count, most, sizes):
  values = normal(count, 3)
  assert sum(sizes) == count
  want = np.concatenate(
    [
      np.broadcast_to(group.mean(0), group.shape)
      for group in np.split(values, np.cumsum(sizes)[:-1])
    ]
  )
  got = jax.jit(ladd.group_means, static_argnums=1)(values, most)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_channels_of_a_virtual_batch_have_mean_0_and_variance_1():
  x = 2 * normal(20, TOKENS, WIDTH) + 3
  y = np.asarray(jax.jit(ladd.batch_normalise, static_argnums=1)(x, 8))
  for group in np.split(y, [7, 14]):
    np.testing.assert_allclose(group.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(group.var((0, 1)), 1, rtol=1e-4)


def test_a_score_depends_on_its_virtual_batch_alone():
  first, second = features(16)
  changed = [np.concatenate([x[:8], x[8:] ** 2]) for x in (first, second)]
  whole, other = logits(BATCH, (first, second)), logits(BATCH, tuple(changed))
  np.testing.assert_allclose(whole[:8], other[:8], rtol=1e-4, atol=1e-5)
  changed = tuple(np.concatenate([x[:7], x[7:] ** 2]) for x in (first, second))
  assert np.all(np.abs(logits(BATCH, changed) - whole)[:7].max(1) > 1e-3)


def test_with_layer_norm_a_score_depends_on_its_example_alone():
  whole = features(3)
  np.testing.assert_allclose(
    logits(LAYER, whole)[:1],
    logits(LAYER, tuple(x[:1] for x in whole)),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize('heads', [BATCH, LAYER], ids=['batch', 'layer'])
def test_rolled_tokens_have_rolled_logits(heads):
  whole = features(2)
  rolled = tuple(np.roll(x, 5, axis=1) for x in whole)
  want = np.roll(logits(heads, whole).reshape(2, 2, TOKENS), 5, axis=2)
  np.testing.assert_allclose(
    logits(heads, rolled).reshape(want.shape), want, rtol=1e-4, atol=1e-5
  )


def test_a_token_reaches_four_tokens_on_either_side_of_the_ring():
  whole = features(1)
  other = tuple(np.concatenate([-x[:, :1], x[:, 1:]], axis=1) for x in whole)
  moved = logits(LAYER, whole) != logits(LAYER, other)
  near = np.isin(np.arange(TOKENS), [8, 9, 10, 11, 0, 1, 2, 3, 4])
  np.testing.assert_array_equal(moved.reshape(2, TOKENS), [near, near])


def test_kernels_start_uniform_with_the_bound_of_torch():
  made = jax.jit(BATCH.init)(jax.random.key(1), features(1))['params']
  for name, size in (('first', 1), ('second', 9), ('out', 1)):
    kernel = made['head_0'][name]['kernel']
    assert kernel.shape[0] == size
    bound = (size * WIDTH) ** -0.5
    assert 0.8 * bound < np.max(np.abs(kernel)) <= bound


def test_only_biases_that_a_norm_would_remove_are_omitted():
  named = lambda heads: {
    name for name, x in drawn(heads)['params']['head_0'].items() if 'bias' in x
  }
  assert named(BATCH) == {'first_norm', 'second_norm', 'out'}
  assert named(LAYER) == {*named(BATCH), 'first', 'second'}


def test_bfloat16_rounds_convolutions_and_leaves_logits_in_float32():
  got = score(BATCH.clone(dtype=jnp.bfloat16), drawn(BATCH), features(8))
  assert got.dtype == jnp.float32
  want = logits(BATCH, features(8))
  error = np.linalg.norm(got - want) / np.linalg.norm(want)
  assert 1e-4 < error < 3e-2


def test_an_unknown_norm_is_refused():
  with pytest.raises(ValueError, match="'instance'.*batch.*layer"):
    jax.eval_shape(
      ladd.Heads(norm='instance').init, jax.random.key(0), features(1)
    )


@pytest.mark.long
@pytest.mark.parametrize(
  'sides, count',
  [((8, 1), 32), ((4, 2), 24), ((1, 8), 8)],
)
@pytest.mark.parametrize('heads', [BATCH, LAYER], ids=['batch', 'layer'])
def test_a_sharded_batch_gives_the_numbers_of_one_device(heads, sides, count):
  """24 examples are 3 virtual batches on 8 devices, which cut them apart."""
  mesh = make_mesh(dict(zip(BATCH_AXES, sides)))
  variables, given = drawn(heads), features(count)
  weights = normal(count, 2 * TOKENS, seed=9)

  def run(variables, features, weights):
    def loss(params, features):
      logits = heads.apply(variables | {'params': params}, features)
      return jnp.sum(weights * logits), logits

    gradients, out = jax.grad(loss, (0, 1), has_aux=True)(
      variables['params'], features
    )
    spectral = variables.get('spectral', {})
    return out, gradients, ladd.renewed(variables['params'], spectral)

  want = jax.jit(run)(variables, given, weights)
  rows = jax.sharding.NamedSharding(mesh, jax.P(BATCH_AXES))
  laid = rules.shardings(variables, tables.LADD_HEADS, mesh)
  with jax.set_mesh(mesh):
    got = jax.jit(run, in_shardings=(laid, rows, rows))(
      variables, given, weights
    )
  for (path, g), w in zip(
    jax.tree_util.tree_leaves_with_path(got),
    jax.tree.leaves(want),
    strict=True,
  ):
    size = float(np.max(np.abs(w)))
    assert size > 0, path
    np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5 * size)
