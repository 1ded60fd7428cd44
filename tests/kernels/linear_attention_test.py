"""ReLU linear attention against the sum over pairs that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.kernels import relu_linear_attention


def by_pairs(q, k, v, eps):
  """Quadratic in tokens, in float64: weights relu(q) . relu(k), normalised."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out = np.zeros_like(v)
  for b, h in np.ndindex(q.shape[0], q.shape[2]):
    weights = np.maximum(q[b, :, h], 0) @ np.maximum(k[b, :, h], 0).T
    total = weights.sum(1, keepdims=True) + eps
    out[b, :, h] = weights @ v[b, :, h] / total
  return out


def inputs(shape=(2, 7, 3, 4), dtype=np.float32):
  rng = np.random.default_rng()
  return [jnp.asarray(rng.normal(size=shape), dtype) for _ in 'qkv']


def relative_error(got, want):
  got = np.asarray(got, np.float64)
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize('eps', [1e-15, 1e-8, 1.])
def test_it_is_the_sum_over_pairs(eps):
  qkv = inputs()
  got = relu_linear_attention(*qkv, eps=eps)
  assert relative_error(got, by_pairs(*qkv, eps)) <= 1e-6


def test_gradients_are_those_of_the_sum_over_pairs():
  qkv = inputs((1, 5, 2, 3))
  loss = lambda *x: jnp.sum(jnp.sin(3 * relu_linear_attention(*x, eps=0.1)))
  got = jax.jit(jax.grad(loss, (0, 1, 2)))(*qkv)
  step = 1e-5
  for i, grad in enumerate(got):
    x = [np.asarray(a, np.float64) for a in qkv]
    want = np.zeros(x[i].shape)
    for at in np.ndindex(x[i].shape):
      sides = []
      for sign in (1, -1):
        moved = [a.copy() for a in x]
        moved[i][at] += sign * step
        sides.append(np.sum(np.sin(3 * by_pairs(*moved, 0.1))))
      want[at] = (sides[0] - sides[1]) / (2 * step)
    assert relative_error(grad, want) <= 1e-4


def test_bfloat16_is_summed_in_float32():
  qkv = inputs((1, 512, 1, 8), jnp.bfloat16)
  got = relu_linear_attention(*qkv)
  assert got.dtype == jnp.bfloat16
  # One rounding of the result is all that is lost.
  assert relative_error(got, by_pairs(*qkv, 1e-15)) <= 2 ** -8


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_query_that_no_key_answers_gives_zero(dtype):
  q, k, v = inputs(dtype=dtype)
  q = q.at[:, 2].set(-abs(q[:, 2]))
  k = k.at[1].set(-abs(k[1]))
  out = relu_linear_attention(q, k, v)
  assert not out[0, 2].any() and not out[1].any()
  assert jnp.isfinite(out.astype(jnp.float32)).all()


def test_scaling_queries_changes_nothing_and_one_value_is_its_own_mean():
  q, k, v = inputs()
  q, k = abs(q), abs(k)
  np.testing.assert_allclose(
    relu_linear_attention(64 * q, k, v), relu_linear_attention(q, k, v),
    rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    relu_linear_attention(q, k, jnp.full_like(v, 3.)), 3., rtol=1e-6)
