"""LPIPS where its value is known without a trained network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models import lpips


@pytest.fixture(scope='module')
def params():
  """Random kernels, zero biases and weights of 1 / channels, by NumPy."""
  rng = np.random.default_rng(0)

  def draw(path, s):
    if path[0].key != 'vgg':
      return np.full(s.shape, 1 / s.size, np.float32)
    if path[-1].key == 'bias':
      return np.zeros(s.shape, np.float32)
    scale = np.float32(np.prod(s.shape[:-1]) ** -0.5)
    return scale * rng.standard_normal(s.shape, np.float32)

  shapes = jax.eval_shape(lpips.init, jax.random.key(0))
  return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(1)
  return jnp.asarray(rng.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)


distance = jax.jit(
  lambda params, x, y: lpips.LPIPS().apply({'params': params}, x, y)
)


@pytest.mark.long
def test_the_distance_is_zero_to_itself_and_symmetric(params, images):
  there, back = distance(params, images, images[::-1])
  np.testing.assert_allclose(there, back, rtol=1e-6)
  assert there > 1e-4
  # What XLA fuses differently for the two is of the order of 1e-17.
  np.testing.assert_allclose(
    distance(params, images, images), [0, 0], atol=1e-14
  )


@pytest.mark.long
def test_zero_features_give_zero_distance_without_nan(params, images):
  """With kernels and biases of 0 every feature of every pixel is 0."""
  dead = {**params, 'vgg': jax.tree.map(np.zeros_like, params['vgg'])}
  # Arguments, as in training: with constant kernels of 0, XLA's CPU compiler
  # occasionally gives NaN, from uninitialised memory.
  value, gradient = jax.jit(
    jax.value_and_grad(
      lambda x, params: jnp.sum(distance(params, x, images[:1]))
    )
  )(-images[:1], dead)
  assert value == 0
  np.testing.assert_array_equal(gradient, np.zeros_like(images[:1]))


def test_orthogonal_features_have_the_maximum_distance():
  """|u - v|^2 of unit vectors is 2 - 2 u v: 2 where they are orthogonal."""
  x = jnp.asarray([[[[3.0, 0.0], [0.0, 0.0]]]])
  y = jnp.asarray([[[[0.0, 5.0], [0.0, 0.0]]]])
  squares = jnp.sum((lpips.unit(x) - lpips.unit(y)) ** 2, axis=-1)
  np.testing.assert_allclose(squares, [[[2.0, 0.0]]], rtol=1e-6)


def test_vgg16_has_the_published_parameter_count(params):
  # 14.7 M in the convolutions (arXiv:1409.1556, D without 124 M of dense ones).
  count = sum(x.size for x in jax.tree.leaves(params['vgg']))
  assert count == 14_714_688
