"""The gated depthwise convolution against XLA's grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.kernels import depthwise_conv, glumb_conv


def grouped(x, kernel):
  """lax's convolution with one group a channel."""
  return jax.lax.conv_general_dilated(
    x, kernel[:, :, None], (1, 1), 'SAME', feature_group_count=x.shape[-1],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def by_hand(x, kernel, bias):
  """The definition in float64, position by position."""
  x, kernel, bias = (np.asarray(a, np.float64) for a in (x, kernel, bias))
  silu = lambda a: a / (1 + np.exp(-a))
  x, (height, width) = silu(x), x.shape[1:3]
  out = np.zeros_like(x) + bias
  for y, z, i, j in np.ndindex(height, width, 3, 3):
    if 0 <= y + i - 1 < height and 0 <= z + j - 1 < width:
      out[:, y, z] += x[:, y + i - 1, z + j - 1] * kernel[i, j]
  value, gate = np.split(out, 2, axis=-1)
  return value * silu(gate)


def normal(*shape, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng().normal(size=shape), dtype)


def relative_error(got, want):
  got, want = (np.asarray(a, np.float64) for a in (got, want))
  return np.linalg.norm(got - want) / np.linalg.norm(want)


def with_gradients(f, cotangent, *args):
  """f(*args) and its gradients, compiled as one."""
  def run(*args):
    out, back = jax.vjp(f, *args)
    return out, *back(cotangent.astype(out.dtype))
  return jax.jit(run)(*args)


@pytest.mark.parametrize('size', [1, 3, 5])
def test_the_convolution_and_its_gradients_are_those_of_lax(size):
  args = normal(2, 4, 6, 5), normal(size, size, 5)
  cotangent = normal(2, 4, 6, 5)
  for got, want in zip(with_gradients(depthwise_conv, cotangent, *args),
                       with_gradients(grouped, cotangent, *args)):
    assert relative_error(got, want) <= 1e-6


def test_a_kernel_larger_than_the_image():
  x, kernel = normal(1, 1, 2, 3), normal(5, 5, 3)
  assert relative_error(
    jax.jit(depthwise_conv)(x, kernel), grouped(x, kernel)) <= 1e-6


def test_the_gate_is_its_definition():
  x, kernel, bias = normal(2, 5, 4, 6), normal(3, 3, 6), normal(6)
  got = jax.jit(glumb_conv)(x, kernel, bias)
  assert got.shape == (2, 5, 4, 3)
  assert relative_error(got, by_hand(x, kernel, bias)) <= 1e-6


def test_gradients_of_the_gate_are_those_through_lax():
  def plain(x, kernel, bias):
    value, gate = jnp.split(grouped(jax.nn.silu(x), kernel) + bias, 2, axis=-1)
    return value * jax.nn.silu(gate)

  args = normal(2, 5, 4, 6), normal(3, 3, 6), normal(6)
  cotangent = normal(2, 5, 4, 3)
  for got, want in zip(with_gradients(glumb_conv, cotangent, *args),
                       with_gradients(plain, cotangent, *args)):
    assert relative_error(got, want) <= 2e-6


def test_bfloat16_stays_near_float32_and_keeps_its_dtype():
  half = jnp.bfloat16
  args = (normal(2, 6, 6, 8, dtype=half), normal(3, 3, 8, dtype=half),
          normal(8, dtype=half))
  full = [a.astype(jnp.float32) for a in args]
  cotangent = normal(2, 6, 6, 4, dtype=half)
  for got, want in zip(with_gradients(glumb_conv, cotangent, *args),
                       with_gradients(glumb_conv, cotangent, *full)):
    assert got.dtype == half
    # Some ten roundings of 2 ** -8: the bias's gradient sums terms of any sign.
    assert relative_error(got, want) <= 5e-2


def test_a_float32_kernel_does_not_widen_bfloat16():
  x, kernel = normal(1, 3, 3, 2, dtype=jnp.bfloat16), normal(3, 3, 2)
  got = with_gradients(depthwise_conv, x, x, kernel)
  assert [g.dtype for g in got] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
