"""Norms and embeddings against their formulas, worked out in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models import layers

pytestmark = pytest.mark.fast


def test_the_sinusoids_are_cosines_first():
  t = np.float32([0.0, 1.0, 136.0, 999.0, 1000.0])
  got = layers.sinusoidal_embedding(jnp.asarray(t))
  assert got.shape == (5, 256) and got.dtype == jnp.float32
  np.testing.assert_array_equal(got[0], [1.0] * 128 + [0.0] * 128)
  for k in (0, 1, 64, 127):
    angle = t.astype(np.float64) * 10_000.0 ** (-k / 128)
    # 1000 radians in float32 are accurate to 3e-5.
    np.testing.assert_allclose(got[:, k], np.cos(angle), atol=1e-4)
    np.testing.assert_allclose(got[:, 128 + k], np.sin(angle), atol=1e-4)


def test_position_channels_are_x_then_y_and_sines_first():
  height, width, size, base, scale = 4, 8, 24, 16, 2.0
  table = layers.position_embedding(height, width, size, base=base, scale=scale)
  assert table.shape == (height * width, size)
  assert table.dtype == np.float32
  y, x, k = 3, 5, 2
  omega = 10_000.0 ** (-k / 6)
  at_x = x / (width / base) / scale * omega
  at_y = y / (height / base) / scale * omega
  got = table[y * width + x]
  np.testing.assert_allclose(
    got[[k, 6 + k, 12 + k, 18 + k]],
    [math.sin(at_x), math.cos(at_x), math.sin(at_y), math.cos(at_y)],
    rtol=1e-6,
  )
  # Twice as many positions across the same base are half as far apart.
  wider = layers.position_embedding(
    height, 2 * width, size, base=base, scale=scale
  )
  np.testing.assert_allclose(
    wider.reshape(height, -1, size)[:, ::2],
    table.reshape(height, -1, size),
    atol=1e-6,
  )


@pytest.mark.parametrize('offset', [0.0, 1.0])
def test_rms_norm_is_its_formula(offset):
  rng = np.random.default_rng()
  x = rng.normal(size=(3, 5)) * 10
  scale, bias = rng.normal(size=5), rng.normal(size=5)
  norm = layers.RMSNorm(1e-2, use_bias=True, offset=offset)
  got = norm.apply(
    {
      'params': {
        'scale': jnp.asarray(scale, jnp.float32),
        'bias': jnp.asarray(bias, jnp.float32),
      }
    },
    jnp.asarray(x, jnp.float32),
  )
  rms = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2)
  np.testing.assert_allclose(
    got, x / rms * (offset + scale) + bias, rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
  'how, start',
  [({}, 1.0), ({'offset': 1.0}, 0.0), ({'scale_init': 0.01}, 0.01)],
)
def test_rms_norm_starts_as_the_plain_norm_or_as_configured(how, start):
  params = layers.RMSNorm(1e-6, **how).init(
    jax.random.key(0), jnp.ones((1, 4))
  )['params']
  assert params.keys() == {'scale'}
  np.testing.assert_allclose(params['scale'], start)


def test_rms_norm_of_bfloat16_is_rounded_once():
  rng = np.random.default_rng()
  x = jnp.asarray(rng.normal(size=(4, 512)), jnp.bfloat16)
  scale = jnp.asarray(rng.normal(size=512), jnp.float32)
  apply = lambda dtype: layers.RMSNorm(1e-6, offset=1.0, dtype=dtype).apply(
    {'params': {'scale': scale}}, x
  )
  exact = x.astype(jnp.float32)
  exact /= jnp.sqrt(jnp.mean(exact**2, -1, keepdims=True) + 1e-6)
  exact *= 1 + scale
  assert apply(jnp.bfloat16).dtype == jnp.bfloat16
  np.testing.assert_allclose(apply(jnp.float32), exact, rtol=1e-5)
  np.testing.assert_array_equal(
    apply(jnp.bfloat16), apply(jnp.float32).astype(jnp.bfloat16)
  )


def test_layer_normalise_and_modulate():
  x = np.random.default_rng().normal(3.0, 2.0, (4, 64))
  got = layers.layer_normalise(jnp.asarray(x, jnp.float32), 1e-6)
  want = (x - x.mean(-1, keepdims=True)) / np.sqrt(
    x.var(-1, keepdims=True) + 1e-6
  )
  np.testing.assert_allclose(got, want, atol=1e-5)
  half = jnp.asarray(x, jnp.bfloat16)
  assert layers.layer_normalise(half, 1e-6).dtype == jnp.float32
  assert layers.modulate(5.0, shift=2.0, scale=0.5) == 9.5


def test_eps_is_added_to_the_variance():
  # Of the variance's own size, so that its place shows: x / sqrt(2 var).
  x = jnp.array([[-1e-3, 1e-3]])
  want = [[-(0.5**0.5), 0.5**0.5]]
  for normalise in (layers.layer_normalise, layers.rms_normalise):
    np.testing.assert_allclose(normalise(x, 1e-6), want, rtol=1e-5)
