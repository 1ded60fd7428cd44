"""Latents' shapes, and scale and shift applied in one place."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.models.autoencoders import base
from sana_jax.models.autoencoders.dc_ae import DCAE, SIZES

pytestmark = pytest.mark.fast


class Halved(nn.Module):
  """Mean of 2 x 2 pixels and back, with a scale and a shift."""

  spec = base.LatentSpec(3, (2, 2))
  scale = 4.0
  shift = 0.5
  in_channels = 3
  dtype = jnp.float32

  def encode(self, images):
    b, y, x, c = images.shape
    return images.reshape(b, y // 2, 2, x // 2, 2, c).mean((2, 4))

  def decode(self, latents):
    return latents.repeat(2, 1).repeat(2, 2)


def test_the_transformers_latents_are_scaled_after_the_shift():
  images = jnp.arange(48.0).reshape(1, 4, 4, 3)
  latents = base.encode(Halved(), {}, images)
  # The mean of the first four reds, 0, 3, 12 and 15, is 7.5.
  assert latents[0, 0, 0, 0] == 4 * (7.5 - 0.5)
  np.testing.assert_array_equal(
    base.unscaled(Halved(), latents),
    Halved().apply({}, images, method='encode'),
  )


@pytest.mark.parametrize(
  'module, channels, strides',
  [
    (Halved(), 3, (2, 2)),
    (DCAE(**SIZES['dc_ae_f32c32_sana']), 32, (32, 32)),
    (DCAE(**SIZES['dc_ae_f64c128_in']), 128, (64, 64)),
  ],
)
def test_an_autoencoder_describes_its_latents(module, channels, strides):
  assert isinstance(module, base.Autoencoder)
  assert module.spec == base.LatentSpec(channels, strides)


def test_videos_have_a_time_axis():
  spec = base.LatentSpec(16, (8, 32, 32))
  assert spec.side == 32
  assert spec.shape(16, 64, 96) == (2, 2, 3, 16)


def test_sizes_that_do_not_divide_are_refused():
  with pytest.raises(UserError) as error:
    base.LatentSpec(4, (32, 32)).shape(64, 48)
  assert error.value.value == 48
  assert error.value.allowed == 'a multiple of 32'
  with pytest.raises(UserError) as error:
    _ = base.LatentSpec(4, (16, 32)).side
  assert (error.value.key, error.value.value) == ('strides', (16, 32))
