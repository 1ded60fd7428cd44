"""Conversion of DC-AE's tensors and config.json to diffusers and back."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from sana_jax.errors import UserError
from sana_jax.models.autoencoders.dc_ae import DCAE, SIZES
from sana_jax.tree import leaves
from sana_jax.weights import dc_ae as weights
from sana_jax.weights import table

pytestmark = pytest.mark.fast

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'dc_ae.safetensors'


@pytest.fixture(scope='module')
def golden():
  """Tensors with diffusers' names, and the shapes of our model."""
  with safe_open(GOLDEN, 'numpy') as f:
    names = [k for k in f.keys() if k.startswith('weights.')]  # noqa: SIM118
    tensors = {k.removeprefix('weights.'): f.get_tensor(k) for k in names}
    config = json.loads(f.metadata()['config'])
  model = DCAE(**weights.fields_from_diffusers(config))
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )
  return tensors, shapes


def test_tensors_of_diffusers_come_back_byte_for_byte(golden):
  tensors, shapes = golden
  saved = table.save(
    weights.VARIABLES, table.load(weights.VARIABLES, tensors, shapes)
  )
  assert saved.keys() == tensors.keys()
  for key, want in tensors.items():
    got = saved[key]
    assert (got.dtype, got.shape) == (want.dtype, want.shape), key
    assert got.tobytes() == want.tobytes(), key


def test_shapes_and_types_are_those_of_the_model(golden):
  tensors, shapes = golden
  kind = lambda x: (x.shape, x.dtype)
  got = table.load(weights.VARIABLES, tensors, shapes)
  assert jax.tree.map(kind, got) == jax.tree.map(kind, shapes)


@pytest.mark.parametrize(
  'key',
  [
    'encoder.down_blocks.0.1.conv.weight',
    'decoder.norm_out.bias',
    'decoder.up_blocks.0.1.norm.running_var',
  ],
)
def test_a_missing_tensor_is_named(golden, key):
  tensors, shapes = golden
  with pytest.raises(UserError) as error:
    table.load(
      weights.VARIABLES, {k: x for k, x in tensors.items() if k != key}, shapes
    )
  assert [p.split()[0] in leaves(shapes) for p in error.value.value] == [True]


def test_a_surplus_tensor_is_named(golden):
  tensors, shapes = golden
  extra = {'encoder.down_blocks.0.7.conv1.weight': np.zeros((8, 8, 3, 3))}
  with pytest.raises(UserError) as error:
    table.load(weights.VARIABLES, tensors | extra, shapes)
  assert [p.split(':')[0] for p in error.value.value] == list(extra)


@pytest.mark.parametrize('name', SIZES)
def test_configs_of_all_sizes_survive_json(name):
  config = json.loads(json.dumps(weights.diffusers_config(SIZES[name])))
  assert config['_class_name'] == 'AutoencoderDC'
  assert DCAE(**weights.fields_from_diffusers(config)) == DCAE(**SIZES[name])


def test_the_published_config_is_read():
  """Config as in SANA checkpoints: 'Conv', and single values for all stages."""
  blocks = ['ResBlock'] * 3 + ['EfficientViTBlock'] * 3
  scales = [[], [], [], [5], [5], [5]]
  config = {
    '_class_name': 'AutoencoderDC',
    '_diffusers_version': '0.32.0.dev0',
    'attention_head_dim': 32,
    'in_channels': 3,
    'latent_channels': 32,
    'encoder_block_types': blocks,
    'decoder_block_types': blocks,
    'encoder_qkv_multiscales': scales,
    'decoder_qkv_multiscales': scales,
    'downsample_block_type': 'Conv',
    'upsample_block_type': 'interpolate',
    'decoder_norm_types': 'rms_norm',
    'decoder_act_fns': 'silu',
    'scaling_factor': 0.41407,
  }
  fields = weights.fields_from_diffusers(config)
  assert DCAE(**fields) == DCAE(**SIZES['dc_ae_f32c32_sana'])


@pytest.mark.parametrize(
  'config, key, value',
  [
    ({'_class_name': 'AutoencoderKL'}, '_class_name', 'AutoencoderKL'),
    ({'patch_size': 2}, 'patch_size', None),
  ],
)
def test_other_autoencoders_are_refused(config, key, value):
  with pytest.raises(UserError) as error:
    weights.fields_from_diffusers(config)
  assert (error.value.key, error.value.value) == (key, value)
  assert error.value.allowed
