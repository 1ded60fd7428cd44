"""Tiles: what they cut, how they fade into each other, what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import config
from sana_jax.errors import UserError
from sana_jax.inference import tiling
from sana_jax.inference.tiling import Tiles
from sana_jax.models import abstract
from sana_jax.models.autoencoders.dc_ae import DCAE


@pytest.fixture(scope='module')
def model():
  fields = config.dc_ae_fields(4, (8, 8, 32), (0, 1, 1), 1).to_dict()
  module = DCAE(**fields)
  rng = np.random.default_rng(0)
  fill = lambda s: jnp.asarray(rng.normal(0.1, 0.2, s.shape).astype(np.float32))
  return module, jax.tree.map(fill, abstract.autoencoder(module))


def draw(*shape):
  return jnp.asarray(np.random.default_rng().normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def decoded(module, variables, latents):
  return module.apply(variables, latents, method='decode')


def test_one_tile_is_the_plain_picture(model):
  module, variables = model
  latents = draw(1, 4, 4, 4)
  np.testing.assert_array_equal(
    tiling.decode(module, variables, latents, Tiles(16, 12)),
    decoded(module, variables, latents),
  )


def test_tiles_without_an_overlap_are_pictures_side_by_side(model):
  module, variables = model
  latents = draw(1, 8, 12, 4)
  whole = tiling.decode(module, variables, latents, Tiles(16, 16))
  for y, x in np.ndindex(2, 3):
    part = latents[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
    np.testing.assert_allclose(
      whole[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16],
      decoded(module, variables, part),
      rtol=1e-4,
      atol=1e-5,
    )


def test_edges_fade_in_linearly():
  left, right = jnp.zeros((1, 4, 6, 1)), jnp.ones((1, 4, 6, 1))
  faded = tiling._blended(right, None, left, 4)
  np.testing.assert_allclose(
    faded[0, 0, :, 0], [0, 0.25, 0.5, 0.75, 1, 1], atol=1e-6
  )


@pytest.mark.long
@pytest.mark.parametrize('size', [(40, 24), (16, 28)])
def test_sizes_are_those_of_the_plain_way(model, size):
  module, variables = model
  images = draw(1, *size, 3)
  latents = tiling.encode(module, variables, images, Tiles(16, 12))
  assert latents.shape == (1, size[0] // 4, size[1] // 4, 4)
  assert (
    tiling.decode(module, variables, latents, Tiles(16, 12)).shape
    == images.shape
  )


def test_one_by_one_is_all_at_once(model):
  module, variables = model
  latents = draw(2, 4, 4, 4)
  run = functools.partial(decoded, module, variables)
  np.testing.assert_allclose(
    tiling.one_by_one(run, latents), run(latents), rtol=1e-4, atol=1e-5
  )


def test_tiles_that_do_not_fit_are_refused():
  for size, stride in ((18, 12), (16, 10), (16, 20), (16, 0)):
    with pytest.raises(UserError) as error:
      Tiles(size, stride).latent(4)
    assert error.value.key == 'parts'
