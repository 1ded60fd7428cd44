"""Conversion of the ControlNet's config.json and tensors, and refused ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.models.controlnet import SanaControlNet
from sana_jax.weights import controlnet, kinds, table

pytestmark = pytest.mark.fast

# controlnet/config.json of the 0.6B's, as its diffusers folder has it.
PUBLISHED = {
  '_class_name': 'SanaControlNetModel',
  '_diffusers_version': '0.33.0.dev0',
  'attention_bias': False,
  'attention_head_dim': 32,
  'caption_channels': 2304,
  'cross_attention_dim': 1152,
  'cross_attention_head_dim': 72,
  'dropout': 0.0,
  'in_channels': 32,
  'interpolation_scale': None,
  'mlp_ratio': 2.5,
  'norm_elementwise_affine': False,
  'norm_eps': 1e-06,
  'num_attention_heads': 36,
  'num_cross_attention_heads': 16,
  'num_layers': 7,
  'out_channels': 32,
  'patch_size': 1,
  'sample_size': 32,
}


def shapes_of(module):
  x = jnp.zeros((1, 4, 4, module.in_channels))
  return jax.eval_shape(
    module.init,
    jax.random.key(0),
    x,
    jnp.zeros(1),
    jnp.zeros((1, 2, module.caption_channels)),
    x,
  )['params']


def fields_of(module):
  return {f: getattr(module, f) for f in module.__dataclass_fields__}


def test_the_published_config_survives_the_round_trip():
  fields = controlnet.fields_from_diffusers(PUBLISHED)
  assert (fields['width'], fields['depth'], fields['cross_heads']) == (
    1152,
    7,
    16,
  )
  again = controlnet.diffusers_config(fields_of(SanaControlNet(**fields)))
  assert again == {
    k: v for k, v in PUBLISHED.items() if k != '_diffusers_version'
  }


def test_omitted_keys_have_the_defaults_of_diffusers():
  fields = controlnet.fields_from_diffusers({})
  assert (fields['width'], fields['depth']) == (2240, 7)


@pytest.mark.parametrize(
  'changes, key, value',
  [
    (
      {'_class_name': 'SanaTransformer2DModel'},
      '_class_name',
      'SanaTransformer2DModel',
    ),
    ({'qk_norm': None, 'zebra': 2}, 'qk_norm', None),
    ({'cross_attention_dim': 1000}, 'cross_attention_dim', (16, 72, 1000)),
  ],
)
def test_unsupported_values_are_refused(changes, key, value):
  with pytest.raises(UserError) as error:
    controlnet.fields_from_diffusers({**PUBLISHED, **changes})
  assert (error.value.key, error.value.value) == (key, value)
  assert error.value.allowed and 'controlnet' in str(error.value)


def test_a_net_with_norms_is_of_a_class_that_diffusers_does_not_have():
  module = SanaControlNet(16, 1, 2, head_dim=8, qk_norm=True, cross_norm=True)
  config = controlnet.diffusers_config(fields_of(module))
  assert kinds.of_config(config, 'controlnet') is kinds.NORMED_CONTROLNET
  fields = controlnet.fields_from_diffusers(config)
  assert SanaControlNet(**fields) == module


def test_a_net_with_one_of_both_norms_cannot_be_exported():
  module = SanaControlNet(16, 1, 2, head_dim=8, qk_norm=True)
  with pytest.raises(UserError) as error:
    controlnet.diffusers_config(fields_of(module))
  assert (error.value.key, error.value.value) == ('cross_norm', False)
  assert error.value.allowed == (True,)


@pytest.mark.parametrize('norm', [False, True])
def test_every_parameter_has_its_key(norm):
  module = SanaControlNet(
    16,
    3,
    2,
    head_dim=8,
    in_channels=3,
    caption_channels=6,
    patch_size=2,
    qk_norm=norm,
    cross_norm=norm,
    attention_bias=True,
    norm_affine=True,
  )
  shapes = shapes_of(module)
  rng = np.random.default_rng()
  params = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)
  saved = table.save(controlnet.rules(), params)
  np.testing.assert_array_equal(
    saved['controlnet_blocks.2.weight'].T,
    params['blocks']['output']['kernel'][2],
  )
  np.testing.assert_array_equal(
    saved['input_block.weight'].T, params['input']['kernel']
  )
  assert saved['transformer_blocks.1.attn2.to_q.weight'].shape == (16, 16)
  again = table.load(controlnet.rules(), saved, shapes)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_block_without_its_layer_out_is_named():
  shapes = shapes_of(
    SanaControlNet(16, 2, 2, head_dim=8, in_channels=3, caption_channels=6)
  )
  saved = table.save(
    controlnet.rules(),
    jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes),
  )
  del saved['controlnet_blocks.1.bias']
  with pytest.raises(table.WeightError) as error:
    table.load(controlnet.rules(), saved, shapes)
  assert [p.split()[0] for p in error.value.value] == ['blocks/output/bias']
  assert '[1]' in error.value.value[0]
