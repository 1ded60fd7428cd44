"""Strips and meshes: the same picture as in one piece, in less memory."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import strip_decoding
from sana_jax.inference.strip_decoding import Strips
from sana_jax.models.autoencoders.dc_ae import DCAE
from sana_jax.sharding.mesh import make_mesh

SANA = dict(
  encoder_blocks=('ResBlock',) * 2 + ('EfficientViTBlock',) * 2,
  decoder_blocks=('ResBlock',) * 2 + ('EfficientViTBlock',) * 2,
  encoder_widths=(8, 8, 16, 16),
  decoder_widths=(8, 8, 16, 16),
  encoder_depths=(1, 1, 1, 1),
  decoder_depths=(2, 1, 1, 2),
  encoder_scales=((), (), (5,), (5,)),
  decoder_scales=((), (), (5,), (5,)),
  downsample='conv',
  upsample='interpolate',
  decoder_norms=('rms_norm',) * 4,
  decoder_acts=('silu',) * 4,
  latent_channels=4,
  head_dim=8,
)
# As the paper's own, as the lite decoder, and with attention everywhere.
GENERAL = SANA | dict(
  encoder_depths=(0, 1, 1, 1),
  decoder_depths=(0, 2, 1, 1),
  decoder_scales=((),) * 4,
  downsample='pixel_unshuffle',
  upsample='pixel_shuffle',
  decoder_norms=('batch_norm',) * 2 + ('rms_norm',) * 2,
  decoder_acts=('relu',) * 2 + ('silu',) * 2,
)
LITE = SANA | dict(
  decoder_blocks=('ResBlock',) * 4,
  decoder_depths=(0, 1, 2, 1),
  decoder_scales=((),) * 4,
  upsample='pixel_shuffle',
  decoder_out_act='silu',
)
ATTENTION = SANA | dict(
  decoder_blocks=('EfficientViTBlock',) * 4,
  decoder_scales=((3, 5),) * 4,
  decoder_depths=(1,) * 4,
)
FAMILY = {'sana': SANA, 'general': GENERAL, 'lite': LITE, 'vit': ATTENTION}


def make(fields):
  """The model with random weights, biases and statistics."""
  model = DCAE(**fields)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3))
  )
  rng = np.random.default_rng()
  fill = lambda s: jnp.asarray(
    np.asarray(
      rng.normal(size=s.shape) * max(1, np.prod(s.shape[:-1])) ** -0.5, s.dtype
    )
  )
  variables = jax.tree.map(fill, shapes)
  if 'batch_stats' in variables:
    variables['batch_stats'] = jax.tree.map(jnp.abs, variables['batch_stats'])
  return model, variables


def draw(*shape):
  return jnp.asarray(
    np.random.default_rng().normal(size=shape).astype(np.float32)
  )


def whole(model, variables, latents):
  return jax.jit(functools.partial(model.apply, method='decode'))(
    variables, latents
  )


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize('name', FAMILY)
@pytest.mark.parametrize('shape, rows', [((2, 16, 3), 2), ((1, 11, 5), 3)])
def test_strips_give_the_picture_of_one_piece(name, shape, rows):
  model, variables = make(FAMILY[name])
  latents = draw(*shape, 4)
  got = strip_decoding.decode(model, variables, latents, Strips(8 * rows))
  want = whole(model, variables, latents)
  assert got.shape == want.shape
  assert relative_error(got, want) <= 1e-5


def test_without_more_rows_there_would_be_seams(monkeypatch):
  model, variables = make(SANA)
  latents = draw(1, 16, 3, 4)
  monkeypatch.setattr(strip_decoding, '_reach', lambda *_: 0)
  strip_decoding.decode.clear_cache()
  got = strip_decoding.decode(model, variables, latents, Strips(16))
  strip_decoding.decode.clear_cache()
  assert relative_error(got, whole(model, variables, latents)) > 1e-4


def test_strips_bound_the_memory():
  model, variables = make(SANA)
  latents = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
  temporaries = lambda f: (
    f.lower(variables, latents).compile().memory_analysis().temp_size_in_bytes
  )
  one = temporaries(jax.jit(functools.partial(model.apply, method='decode')))
  strips = temporaries(
    jax.jit(lambda v, x: strip_decoding.decode(model, v, x, Strips(32)))
  )
  assert strips < one / 4


@pytest.mark.parametrize('name', FAMILY)
@pytest.mark.parametrize('height', [8, 6])
def test_a_mesh_splits_the_rows_of_the_same_picture(name, height):
  model, variables = make(FAMILY[name])
  latents = draw(1, height, 4, 4)
  with jax.set_mesh(make_mesh({'sequence': 4}, jax.devices()[:4])):
    got = whole(model, variables, latents)
  assert got.sharding.spec[1] == 'sequence'
  assert relative_error(got, whole(model, variables, latents)) <= 1e-5


def test_devices_exchange_halos_and_sums_and_hold_a_part():
  model, variables = make(SANA)
  latents = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
  compiled = lambda: (
    jax.jit(functools.partial(model.apply, method='decode'))
    .lower(variables, latents)
    .compile()
  )
  one = compiled()
  with jax.set_mesh(make_mesh({'sequence': 4}, jax.devices()[:4])):
    four = compiled()
  moved = re.findall(
    r' = (\S.*?) (all-gather|all-reduce|all-to-all|collective-permute)\(',
    four.as_text(),
  )
  assert {kind for _, kind in moved} == {'all-reduce', 'collective-permute'}
  sums = {shape for shape, kind in moved if kind == 'all-reduce'}
  assert all('f32[1,4,8]' in s and 'f32[1,4,8,8]' in s for s in sums), sums
  # A quarter and the halo: no array is put together anywhere.
  assert largest(four) < 0.3 * largest(one)


def largest(program):
  """Elements of the largest array of a compiled program."""
  shapes = re.findall(r' = f32\[([\d,]+)\]', program.as_text())
  return max(math.prod(map(int, shape.split(','))) for shape in shapes)


def test_strips_that_do_not_fit_are_refused():
  with pytest.raises(UserError, match='Strips of 100 px .* multiple of 32'):
    Strips(100).latent(32)
  with pytest.raises(UserError, match='Strips of 0 px'):
    Strips(0).latent(32)
