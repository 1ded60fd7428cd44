"""DC-AE against diffusers' AutoencoderDC: every option, random weights."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models.dc_ae import DCAE, SIZES
from sana_jax.weights import dc_ae as weights

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')
safetensors = pytest.importorskip('safetensors.torch')
pytestmark = pytest.mark.parity

_spec = importlib.util.spec_from_file_location(
  'goldens_dc_ae', pathlib.Path(__file__).with_name('goldens_dc_ae.py'))
goldens = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(goldens)

RES, VIT = 'ResBlock', 'EfficientViTBlock'
SANA = dict(
  latent_channels=4, attention_head_dim=8,
  encoder_block_types=[RES, RES, VIT], decoder_block_types=[RES, RES, VIT],
  encoder_block_out_channels=[8, 16, 16],
  decoder_block_out_channels=[8, 16, 16],
  encoder_layers_per_block=[1, 2, 1], decoder_layers_per_block=[2, 1, 1],
  encoder_qkv_multiscales=[[], [], [5]],
  decoder_qkv_multiscales=[[], [], [5]],
  downsample_block_type='Conv', upsample_block_type='interpolate',
  scaling_factor=0.41407)
LITE = SANA | dict(
  decoder_block_types='ResBlock', decoder_layers_per_block=[0, 2, 1],
  decoder_qkv_multiscales=[[], [], []], upsample_block_type='pixel_shuffle',
  decoder_conv_act_fn='silu')
GENERAL = dict(
  latent_channels=8, attention_head_dim=8,
  encoder_block_types=[RES, RES, VIT, VIT],
  decoder_block_types=[RES, RES, VIT, VIT],
  encoder_block_out_channels=[8, 8, 16, 32],
  decoder_block_out_channels=[8, 8, 16, 32],
  encoder_layers_per_block=[0, 1, 2, 1],
  decoder_layers_per_block=[0, 2, 1, 1],
  encoder_qkv_multiscales=[[], [], [], []],
  decoder_qkv_multiscales=[[], [], [], []],
  decoder_norm_types=['batch_norm', 'batch_norm', 'rms_norm', 'rms_norm'],
  decoder_act_fns=['relu', 'relu', 'silu', 'silu'])
REST = SANA | dict(  # What no published model has, or not together.
  encoder_block_types=[RES, VIT, VIT], decoder_block_types=[RES, RES, VIT],
  encoder_layers_per_block=[0, 1, 1], decoder_layers_per_block=[0, 1, 1],
  encoder_qkv_multiscales=[[], [3, 5], [3]],
  decoder_qkv_multiscales=[[], [], [5, 3]],
  decoder_norm_types='batch_norm', encoder_out_shortcut=False,
  decoder_in_shortcut=False)
MIXED = SANA | dict(
  encoder_block_types=RES, decoder_block_types=RES,
  downsample_block_type='pixel_unshuffle',
  upsample_block_type='pixel_shuffle',
  encoder_block_out_channels=[8, 8, 32], decoder_block_out_channels=[8, 8, 32])
CONFIGS = {
  'sana': SANA, 'lite': LITE, 'general': GENERAL, 'rest': REST, 'mixed': MIXED}


@pytest.fixture(params=CONFIGS)
def reference(request):
  """Models of diffusers, with another seed in every run."""
  seed = int(np.random.SeedSequence().entropy % 2**31)
  print('seed', seed)
  torch.manual_seed(seed)
  return goldens.randomise(
    diffusers.AutoencoderDC(**CONFIGS[request.param]), seed)


def ours(reference):
  """The same model here, with the same weights."""
  model = DCAE(**weights.fields_from_diffusers(reference.config))
  tensors = {k: x.numpy() for k, x in reference.state_dict().items()}
  return model, weights.load(tensors, variable_shapes(model))


def variable_shapes(model):
  side = 2 * model.compression
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def channels_last(x):
  return x.permute(0, 2, 3, 1).float().numpy()


def relative_error(got, want):
  want = channels_last(want)
  return np.linalg.norm(np.float32(got) - want) / np.linalg.norm(want)


@pytest.mark.parametrize('positions, path', [((3, 5), 'linear'),
                                             ((2, 2), 'quadratic')])
def test_encode_and_decode_are_those_of_diffusers(reference, positions, path):
  model, variables = ours(reference)
  size = [model.compression * n for n in positions]
  images = torch.rand(2, 3, *size) * 2 - 1
  latents, decoded = goldens.compute(reference, images)
  apply = lambda method: jax.jit(functools.partial(model.apply, method=method))
  got = apply('encode')(variables, channels_last(images))
  assert relative_error(got, latents) <= 1e-5
  got = apply('decode')(variables, channels_last(latents))
  assert relative_error(got, decoded) <= 1e-5


def test_weights_come_back_byte_for_byte(reference):
  _, variables = ours(reference)
  saved = weights.save(variables)
  want = reference.state_dict()
  assert saved.keys() == want.keys()
  for key, x in want.items():
    assert saved[key].dtype == x.numpy().dtype, key
    assert saved[key].shape == tuple(x.shape), key
    assert saved[key].tobytes() == x.contiguous().numpy().tobytes(), key


def test_diffusers_builds_the_model_from_our_config(reference):
  fields = weights.fields_from_diffusers(reference.config)
  config = weights.diffusers_config(fields)
  with torch.device('meta'):
    rebuilt = diffusers.AutoencoderDC.from_config(config)
  shapes = lambda model: {k: x.shape for k, x in model.state_dict().items()}
  assert shapes(rebuilt) == shapes(reference)
  for key in ('scaling_factor', 'decoder_conv_act_fn', 'encoder_out_shortcut',
              'downsample_block_type', 'upsample_block_type'):
    assert rebuilt.config[key] == reference.config[key]


@pytest.mark.parametrize('name', SIZES)
def test_published_sizes_have_the_tensors_of_diffusers(name):
  with torch.device('meta'):
    reference = diffusers.AutoencoderDC.from_config(
      weights.diffusers_config(SIZES[name]))
  shapes = variable_shapes(DCAE(**SIZES[name]))
  # Arrays of the right shapes without the memory: all strides are 0.
  tensors = {
    k: np.broadcast_to(np.float32(0), x.shape)
    for k, x in reference.state_dict().items()}
  weights.load(tensors, shapes)
  assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == sum(
    x.numel() for x in reference.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dc_ae_f32c32_sana', 'dc_ae_f32c32_mix'])
def test_a_published_size_computes_what_diffusers_does(name):
  torch.manual_seed(0)
  reference = goldens.randomise(diffusers.AutoencoderDC.from_config(
    weights.diffusers_config(SIZES[name])), 0)
  model, variables = ours(reference)
  images = torch.rand(1, 3, 128, 256) * 2 - 1
  latents, decoded = goldens.compute(reference, images)
  apply = lambda method: jax.jit(functools.partial(model.apply, method=method))
  got = apply('encode')(variables, channels_last(images))
  assert relative_error(got, latents) <= 1e-5
  got = apply('decode')(variables, channels_last(latents))
  assert relative_error(got, decoded) <= 1e-5


def test_bfloat16_is_as_close_to_float32_as_in_diffusers():
  torch.manual_seed(0)
  # Heads of 32: with few dimensions a query may have no positive entry, and
  # then rounding decides between an average of values and zero.
  config = SANA | dict(
    attention_head_dim=32, encoder_block_out_channels=[8, 16, 32],
    decoder_block_out_channels=[8, 16, 32])
  reference = goldens.randomise(diffusers.AutoencoderDC(**config), 0)
  model, variables = ours(reference)
  model = model.clone(dtype=jnp.bfloat16)
  images = torch.rand(2, 3, 32, 32) * 2 - 1
  latents, decoded = goldens.compute(reference, images)
  reference.to(torch.bfloat16)
  for method, x, want in (
      ('encode', images, latents), ('decode', latents, decoded)):
    apply = jax.jit(functools.partial(model.apply, method=method))
    got = apply(variables, channels_last(x))
    with torch.no_grad():
      theirs = getattr(reference, method)(x.to(torch.bfloat16))[0]
    # 1.2: equal precision, other order of sums.
    assert relative_error(got, want) <= 1.2 * relative_error(
      channels_last(theirs), want)


def test_the_golden_file_is_what_diffusers_computes():
  tensors = safetensors.load_file(goldens.PATH)
  model = diffusers.AutoencoderDC(**goldens.CONFIG).eval()
  model.load_state_dict({
    k.removeprefix('weights.'): x for k, x in tensors.items()
    if k.startswith('weights.')})
  for name in goldens.SIZES:
    images = tensors[f'{name}.images'].permute(0, 3, 1, 2)
    latents, decoded = goldens.compute(model, images)
    assert relative_error(tensors[f'{name}.latents'], latents) <= 1e-6
    assert relative_error(tensors[f'{name}.decoded'], decoded) <= 1e-6
