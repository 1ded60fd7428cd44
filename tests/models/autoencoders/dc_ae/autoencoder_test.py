"""DC-AE as a whole: numbers of diffusers, sizes of the published models."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from sana_jax.errors import UserError
from sana_jax.models.autoencoders.dc_ae import DCAE, SIZES
from sana_jax.weights import dc_ae as weights
from sana_jax.weights import table

GOLDEN = pathlib.Path(__file__).parents[3] / 'golden' / 'dc_ae.safetensors'
TINY = dict(
  encoder_blocks=('ResBlock', 'ResBlock'),
  decoder_blocks=('ResBlock', 'ResBlock'),
  encoder_widths=(4, 8),
  decoder_widths=(4, 8),
  encoder_depths=(1, 1),
  decoder_depths=(1, 1),
  encoder_scales=((), ()),
  decoder_scales=((), ()),
  downsample='conv',
  upsample='interpolate',
  decoder_norms=('rms_norm',) * 2,
  decoder_acts=('silu',) * 2,
  latent_channels=4,
  head_dim=4,
)


@pytest.fixture(scope='module')
def golden():
  """The model and variables of the golden file, and its other tensors."""
  with safe_open(GOLDEN, 'numpy') as f:
    tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    config = json.loads(f.metadata()['config'])
  model = DCAE(**weights.fields_from_diffusers(config))
  named = {
    k.removeprefix('weights.'): x
    for k, x in tensors.items()
    if k.startswith('weights.')
  }
  return model, table.load(weights.VARIABLES, named, shapes(model)), tensors


@functools.cache
def shapes(model, **kwargs):
  side = 2 * model.compression
  return jax.eval_shape(
    functools.partial(model.init, **kwargs),
    jax.random.key(0),
    jnp.zeros((1, side, side, 3)),
  )


@functools.partial(jax.jit, static_argnums=0, static_argnames='method')
def apply(model, *args, method):
  return model.apply(*args, method=method)


def published(name):
  """The model without its scaling factor, in which alone some differ."""
  return DCAE(**SIZES[name] | dict(scaling_factor=1.0))


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize('attention', ['linear', 'quadratic'])
def test_numbers_are_those_of_diffusers(golden, attention):
  model, variables, tensors = golden
  want = {
    k: tensors[f'{attention}.{k}'] for k in ('images', 'latents', 'decoded')
  }
  got = apply(model, variables, want['images'], method='encode')
  assert relative_error(got, want['latents']) <= 1e-5
  got = apply(model, variables, want['latents'], method='decode')
  assert relative_error(got, want['decoded']) <= 1e-5


def test_decoding_needs_the_decoders_parameters_only(golden):
  model, variables, tensors = golden
  decoder = {k: {'decoder': x['decoder']} for k, x in variables.items()}
  got = apply(model, decoder, tensors['linear.latents'], method='decode')
  assert relative_error(got, tensors['linear.decoded']) <= 1e-5


@pytest.mark.long
@pytest.mark.parametrize(
  'name, encoder, whole',
  [
    ('dc_ae_f32c32_sana', 153_027_104, 312_250_275),
    ('dc_ae_lite_f32c32_sana', 153_027_104, 421_181_228),
    ('dc_ae_f32c32_in', None, 323_356_460),
    ('dc_ae_f32c32_mix', None, 323_356_460),
    ('dc_ae_f64c128_in', None, 676_896_140),
    ('dc_ae_f64c128_mix', None, 676_896_140),
    ('dc_ae_f128c512_in', None, 1_120_682_252),
    ('dc_ae_f128c512_mix', None, 1_120_682_252),
  ],
)
def test_published_sizes_have_the_parameters_of_diffusers(name, encoder, whole):
  params = shapes(published(name))['params']
  assert count(params) == whole
  assert encoder in (None, count(params['encoder']))


@pytest.mark.long
@pytest.mark.parametrize(
  'name, compression, channels',
  [
    ('dc_ae_f32c32_sana', 32, 32),
    ('dc_ae_lite_f32c32_sana', 32, 32),
    ('dc_ae_f64c128_mix', 64, 128),
    ('dc_ae_f128c512_in', 128, 512),
  ],
)
def test_the_name_gives_compression_and_channels(name, compression, channels):
  model = published(name)
  assert model.compression == compression
  images = jax.ShapeDtypeStruct((1, 128, 256, 3), jnp.float32)
  latents = jax.eval_shape(
    functools.partial(model.apply, method='encode'), shapes(model), images
  )
  assert latents.shape == (1, 128 // compression, 256 // compression, channels)


@pytest.mark.long
def test_recomputing_blocks_changes_no_gradient():
  model = DCAE(**TINY)
  rng = np.random.default_rng()
  draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x = draw((1, 4, 4, 3))
  variables = jax.tree.map(lambda s: 0.3 * draw(s.shape), shapes(model))

  def grads(model):
    loss = lambda v: jnp.sum(model.apply(v, x, method='encode') ** 2)
    text = str(jax.make_jaxpr(loss)(variables))
    assert ('remat' in text or 'checkpoint' in text) == model.remat
    return jax.jit(jax.grad(loss))(variables)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    grads(model),
    grads(model.clone(remat=True)),
  )


def test_latents_and_images_have_the_compute_dtype():
  model = DCAE(**TINY, dtype=jnp.bfloat16)
  variables = shapes(model)
  x = jnp.zeros((1, 4, 4, 3))
  assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  assert jax.eval_shape(model.apply, variables, x).dtype == jnp.bfloat16


def test_images_that_do_not_divide_are_refused():
  model = DCAE(**TINY)
  with pytest.raises(UserError) as error:
    model.init(jax.random.key(0), jnp.zeros((1, 5, 6, 3)))
  assert error.value.value == (6, 5)
  assert error.value.allowed == 'multiples of 2'


@pytest.mark.parametrize(
  'change, value, allowed',
  [
    ({'upsample': 'bilinear'}, 'bilinear', ('interpolate', 'pixel_shuffle')),
    (
      {'decoder_norms': ('rms_norm', 'norm')},
      'norm',
      ('rms_norm', 'batch_norm'),
    ),
    ({'decoder_depths': (1,)}, (1,), '2 entries'),
    ({'encoder_depths': (1, 0)}, (1, 0), 'positive but for the first'),
  ],
)
def test_fields_that_describe_no_autoencoder_are_refused(
  change, value, allowed
):
  with pytest.raises(UserError) as error:
    shapes(DCAE(**(TINY | change)))
  assert {error.value.key} == change.keys()
  assert (error.value.value, error.value.allowed) == (value, allowed)
