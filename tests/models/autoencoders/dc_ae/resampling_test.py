"""Resampling moves each value where PyTorch's operations do."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models.autoencoders.dc_ae import resampling

pytestmark = pytest.mark.fast


def normal(*shape):
  return np.random.default_rng().normal(size=shape).astype(np.float32)


def test_space_to_channels_orders_channel_row_column():
  x = normal(2, 4, 6, 3)
  got = resampling.space_to_channels(jnp.asarray(x))
  for c, i, j in itertools.product(range(3), range(2), range(2)):
    np.testing.assert_array_equal(
      got[..., 4 * c + 2 * i + j], x[:, i::2, j::2, c]
    )


def test_channels_to_space_is_its_inverse():
  x = normal(2, 4, 6, 3)
  np.testing.assert_array_equal(
    resampling.channels_to_space(resampling.space_to_channels(jnp.asarray(x))),
    x,
  )


def test_shortcuts_average_and_repeat_neighbouring_channels():
  x = jnp.array([[1.0, 3, 10, 20]])
  np.testing.assert_array_equal(resampling.mean_channels(x, 2), [[2.0, 15]])
  np.testing.assert_array_equal(
    resampling.repeat_channels(x[:, :2], 4), [[1.0, 1, 3, 3]]
  )


@pytest.mark.parametrize('shape', [(1, 1, 1, 3), (2, 5, 4, 3)])
def test_four_small_convolutions_are_the_large_one(shape):
  x, key = normal(*shape), jax.random.key(1)
  conv = nn.Conv(6, (3, 3), padding=((1, 1), (1, 1)), use_bias=False)
  params = jax.jit(conv.init)(key, x)
  large = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
  kernel = params['params']['kernel']
  got = jax.jit(resampling.upsampling_conv)(x, kernel)
  want = jax.jit(conv.apply)(params, large)
  assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def zero_weights(module, x):
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


@pytest.mark.parametrize('kind', ['conv', 'pixel_unshuffle'])
def test_down_with_zero_weights_averages_pixels(kind):
  module = resampling.Down(4, kind)
  x = normal(1, 4, 4, 4)
  zeros = zero_weights(module, x)
  want = x.reshape(1, 2, 2, 2, 2, -1).mean((2, 4))
  np.testing.assert_allclose(jax.jit(module.apply)(zeros, x), want, atol=1e-6)


@pytest.mark.parametrize('kind', ['interpolate', 'pixel_shuffle'])
def test_up_with_zero_weights_repeats_pixels(kind):
  module = resampling.Up(3, kind)
  x = normal(1, 2, 2, 3)
  zeros = zero_weights(module, x)
  want = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
  np.testing.assert_array_equal(jax.jit(module.apply)(zeros, x), want)
