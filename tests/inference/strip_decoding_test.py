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
  decoder_depths=(1, 1, 1, 1),
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
  decoder_depths=(0, 1, 1, 1),
  decoder_scales=((),) * 4,
  downsample='pixel_unshuffle',
  upsample='pixel_shuffle',
  decoder_norms=('batch_norm',) * 2 + ('rms_norm',) * 2,
  decoder_acts=('relu',) * 2 + ('silu',) * 2,
)
LITE = SANA | dict(
  decoder_blocks=('ResBlock',) * 4,
  decoder_depths=(0, 1, 1, 1),
  decoder_scales=((),) * 4,
  upsample='pixel_shuffle',
  decoder_out_act='silu',
)
ATTENTION = SANA | dict(
  decoder_blocks=('EfficientViTBlock',) * 4,
  decoder_scales=((3,), (), (3, 5), (5,)),
  decoder_depths=(1,) * 4,
)
# Fields, shape of the latents and rows of a strip. Of 9 rows, the last strip
# has one, and the last of four devices none.
FAMILY = {
  'sana': (SANA, (1, 9, 5), 2),
  'general': (GENERAL, (2, 8, 3), 2),
  'lite': (LITE, (1, 9, 5), 2),
  'vit': (ATTENTION, (2, 8, 3), 3),
}


ONE = make_mesh({'data': 1}, jax.devices()[:1])


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


@functools.partial(jax.jit, static_argnums=0)
def whole(model, variables, latents):
  return model.apply(variables, latents, method='decode')


@functools.cache
def case(name):
  """(model, variables, latents, the picture decoded in one piece)."""
  fields, shape, _ = FAMILY[name]
  model, variables = make(fields)
  latents = np.random.default_rng().normal(size=(*shape, 4)).astype(np.float32)
  return model, variables, latents, np.asarray(whole(model, variables, latents))


@functools.cache
def large():
  """(model, variables, shape of the latents)."""
  model, variables = make(SANA)
  return model, variables, jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)


@functools.cache
def compiled(mesh):
  """Program for the large latents."""
  arguments = large()  # Not made for the devices of the mesh.
  with jax.set_mesh(mesh):
    return whole.lower(*arguments).compile()


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.long
@pytest.mark.parametrize('name', FAMILY)
def test_strips_give_the_picture_of_one_piece(name):
  model, variables, latents, want = case(name)
  rows = FAMILY[name][2]
  got = strip_decoding.decode(model, variables, latents, Strips(8 * rows))
  assert got.shape == want.shape
  assert relative_error(got, want) <= 1e-5


@pytest.mark.long
def test_without_more_rows_there_would_be_seams(monkeypatch):
  model, variables, latents, want = case('lite')
  monkeypatch.setattr(strip_decoding, '_reach', lambda *_: 0)
  strip_decoding.decode.clear_cache()
  got = strip_decoding.decode(model, variables, latents, Strips(16))
  strip_decoding.decode.clear_cache()
  assert relative_error(got, want) > 1e-4


@pytest.mark.long
def test_strips_bound_the_memory():
  temporaries = lambda x: x.memory_analysis().temp_size_in_bytes
  model, *rest = large()
  strips = strip_decoding.decode.lower(model, *rest, Strips(32)).compile()
  assert temporaries(strips) < temporaries(compiled(ONE)) / 4


@pytest.mark.long
@pytest.mark.parametrize('name', FAMILY)
def test_a_mesh_splits_the_rows_of_the_same_picture(name):
  model, variables, latents, want = case(name)
  with jax.set_mesh(make_mesh({'sequence': 4}, jax.devices()[:4])):
    got = whole(model, variables, latents)
  assert got.sharding.spec[1] == 'sequence'
  assert relative_error(got, want) <= 1e-5


@pytest.mark.long
def test_devices_exchange_halos_and_sums_and_hold_a_part():
  four = compiled(make_mesh({'sequence': 4}, jax.devices()[:4]))
  moved = re.findall(
    r' = (\S.*?) (all-gather|all-reduce|all-to-all|collective-permute)\(',
    four.as_text(),
  )
  assert {kind for _, kind in moved} == {'all-reduce', 'collective-permute'}
  sums = {shape for shape, kind in moved if kind == 'all-reduce'}
  assert all('f32[1,4,8]' in s and 'f32[1,4,8,8]' in s for s in sums), sums
  # A quarter and the halo: no array is put together anywhere.
  assert largest(four) < 0.3 * largest(compiled(ONE))


def largest(program):
  """Elements of the largest array of a compiled program."""
  shapes = re.findall(r' = f32\[([\d,]+)\]', program.as_text())
  return max(math.prod(map(int, shape.split(','))) for shape in shapes)


def test_strips_that_do_not_fit_are_refused():
  for size in (100, 0):
    with pytest.raises(UserError) as error:
      Strips(size).latent(32)
    assert error.value.value == size
