"""The discriminator's scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models import patchgan

pytestmark = pytest.mark.fast


@pytest.fixture(scope='module')
def params():
  return jax.jit(patchgan.PatchGAN().init)(
    jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )['params']


score = jax.jit(
  lambda params, x: patchgan.PatchGAN().apply({'params': params}, x)
)


@pytest.mark.parametrize('pixels, patches', [(256, 30), (32, 2), (24, 1)])
def test_the_number_of_patches_is_that_of_pix2pix(pixels, patches, params):
  """30 x 30 of 256 pixels; the smallest picture has one."""
  shape = jax.eval_shape(
    score, params, jax.ShapeDtypeStruct((1, pixels, pixels, 3), 'float32')
  )
  assert shape.shape == (1, patches, patches)


def test_a_score_depends_on_its_own_picture_alone(params):
  images = np.float32(np.random.default_rng(1).normal(size=(3, 32, 32, 3)))
  alone = score(params, images[:1])
  np.testing.assert_allclose(
    score(params, images)[:1], alone, rtol=1e-4, atol=1e-6
  )
  assert np.std(alone) > 1e-3


def test_channels_have_mean_0_and_variance_1():
  x = np.float32(np.random.default_rng(0).normal(3, 2, (2, 8, 8, 4)))
  y = np.asarray(jax.jit(patchgan.instance_norm)(x))
  np.testing.assert_allclose(np.mean(y, axis=(1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(np.var(y, axis=(1, 2)), 1, rtol=1e-4)
