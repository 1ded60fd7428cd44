"""Gemma-2's parts against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models.gemma2 import modules

pytestmark = pytest.mark.fast


def normal(*shape):
  return jnp.asarray(np.random.default_rng().normal(size=shape), jnp.float32)


def test_rotation_is_that_of_a_complex_plane():
  m, k, theta = 7, 6, 100.0
  x = normal(2, m, 3, k)
  got = modules.rotate(x, *modules.rotary_tables(m, k, theta))
  x = np.asarray(x, np.float64)
  angles = np.arange(m)[:, None] * theta ** (-2 * np.arange(k // 2) / k)
  turned = x[..., : k // 2] + 1j * x[..., k // 2 :]
  turned *= np.exp(1j * angles)[:, None]
  want = np.concatenate([turned.real, turned.imag], axis=-1)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_rotated_products_depend_on_the_distance_only():
  m, k = 9, 8
  q, key = normal(1, 1, 1, k), normal(1, 1, 1, k)
  tables = modules.rotary_tables(m, k, 10_000.0)
  rotate = lambda x: modules.rotate(jnp.tile(x, (1, m, 1, 1)), *tables)[0, :, 0]
  products = np.asarray(rotate(q) @ rotate(key).T)
  for distance in range(-m + 1, m):
    diagonal = np.diagonal(products, distance)
    np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)


def test_soft_cap_is_the_identity_near_zero_and_bounded():
  np.testing.assert_allclose(
    modules.soft_cap(jnp.float32([0, 0.1, -0.1]), 50.0),
    [0, 0.1, -0.1],
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    modules.soft_cap(jnp.float32([50, 1e6, -1e6]), 50.0),
    [50 * np.tanh(1), 50, -50],
    rtol=1e-6,
  )


def test_masks_are_those_of_their_definitions():
  mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
  causal, near = modules.causal_mask(mask), modules.near_mask(5, 2)
  for i in range(5):
    for j in range(5):
      assert near[i, j] == (i - j < 2)
      for b in range(2):
        assert causal[b, i, j] == (j <= i and mask[b, j])


def test_attention_is_a_capped_softmax_over_allowed_keys():
  q, k, v = normal(1, 4, 4, 6) * 3, normal(1, 4, 2, 6) * 3, normal(1, 4, 2, 6)
  allowed = modules.causal_mask(jnp.array([[1, 1, 0, 1]], bool))
  attention = jax.jit(modules.attention, static_argnames=('scale', 'softcap'))
  got = attention(q, k, v, allowed, scale=0.5, softcap=2.0)
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  for head in range(4):
    for i in range(4):
      js = [j for j in range(i + 1) if j != 2]
      logits = k[0, js, head // 2] @ q[0, i, head] * 0.5
      weights = np.exp(2 * np.tanh(logits / 2))
      want = weights @ v[0, js, head // 2] / weights.sum()
      np.testing.assert_allclose(got[0, i, head], want, atol=1e-5)


def test_a_query_without_visible_keys_gets_the_mean():
  q, k, v = normal(1, 3, 1, 4), normal(1, 3, 1, 4), normal(1, 3, 1, 4)
  nothing = jnp.zeros((1, 3, 3), bool)
  got = modules.attention(q, k, v, nothing, scale=1.0, softcap=50.0)
  want = np.broadcast_to(np.mean(v, axis=1, keepdims=True), v.shape)
  np.testing.assert_allclose(got, want, atol=1e-6)
