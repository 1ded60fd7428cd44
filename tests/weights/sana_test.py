"""Conversion of the transformer's config.json, and refused ones."""

import jax
import numpy as np
import pytest

from sana_jax import config
from sana_jax.errors import UserError
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.weights import folder, sana, table

# transformer/config.json of Sana_600M_1024px_diffusers.
PUBLISHED = {
  '_class_name': 'SanaTransformer2DModel',
  '_diffusers_version': '0.32.0.dev0',
  'attention_bias': False,
  'attention_head_dim': 32,
  'caption_channels': 2304,
  'cross_attention_dim': 1152,
  'cross_attention_head_dim': 72,
  'dropout': 0.0,
  'in_channels': 32,
  'mlp_ratio': 2.5,
  'norm_elementwise_affine': False,
  'norm_eps': 1e-06,
  'num_attention_heads': 36,
  'num_cross_attention_heads': 16,
  'num_layers': 28,
  'out_channels': 32,
  'patch_size': 1,
  'sample_size': 32,
}


def test_the_published_config_is_the_named_size():
  fields = sana.fields_from_diffusers(PUBLISHED)
  module = Sana(**config.SANA_SIZES['sana_600m_1024'])
  same = folder.module_fields(module)
  assert fields == {k: same[k] for k in fields}


@pytest.mark.parametrize('size', config.SANA_SIZES)
def test_every_size_survives_the_round_trip(size):
  fields = folder.module_fields(Sana(**config.SANA_SIZES[size]))
  again = sana.fields_from_diffusers(sana.diffusers_config(fields))
  assert again == {k: fields[k] for k in again}
  assert again.keys() >= set(config.SANA_SIZES[size])


def test_omitted_keys_have_the_defaults_of_diffusers():
  fields = sana.fields_from_diffusers({})
  assert (fields['width'], fields['depth'], fields['cross_heads']) == (
    2240,
    20,
    20,
  )
  assert fields['out_channels'] == 32
  assert (
    sana.fields_from_diffusers({'in_channels': 16, 'out_channels': None})[
      'out_channels'
    ]
    == 16
  )


@pytest.mark.parametrize(
  'changes, key, value',
  [
    (
      {'_class_name': 'FluxTransformer2DModel'},
      '_class_name',
      'FluxTransformer2DModel',
    ),
    ({'axes_dims_rope': [1], 'zebra': 2}, 'axes_dims_rope', None),
    (
      {'num_cross_attention_heads': 15},
      'cross_attention_dim',
      (15, 72, 1152),
    ),
    ({'cross_attention_dim': 1000}, 'cross_attention_dim', (16, 72, 1000)),
    ({'qk_norm': 'layer_norm'}, 'qk_norm', 'layer_norm'),
  ],
)
def test_unsupported_values_are_refused(changes, key, value):
  with pytest.raises(UserError) as error:
    sana.fields_from_diffusers({**PUBLISHED, **changes})
  assert (error.value.key, error.value.value) == (key, value)
  assert error.value.allowed


def test_one_norm_without_the_other_cannot_be_exported():
  fields = folder.module_fields(Sana(16, 1, 2, head_dim=8, qk_norm=True))
  with pytest.raises(UserError) as error:
    sana.diffusers_config(fields)
  assert (error.value.key, error.value.value) == ('cross_norm', False)
  assert error.value.allowed == (True,)


@pytest.mark.parametrize('guidance', [False, True])
def test_every_parameter_of_every_option_has_its_key(guidance):
  module = Sana(
    16,
    2,
    2,
    head_dim=8,
    in_channels=3,
    out_channels=4,
    caption_channels=6,
    qk_norm=True,
    cross_norm=True,
    attention_bias=True,
    norm_affine=True,
    guidance_embeds=guidance,
  )
  shapes = abstract.transformer(module)
  rng = np.random.default_rng()
  params = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)
  rules = sana.rules(guidance)
  saved = table.save(rules, params)
  prefix = 'time_embed.' if guidance else 'time_embed.emb.'
  assert f'{prefix}timestep_embedder.linear_1.weight' in saved
  assert ('time_embed.guidance_embedder.linear_2.bias' in saved) == guidance
  assert saved['transformer_blocks.1.ff.conv_depth.weight'].shape == (
    80,
    1,
    3,
    3,
  )
  jax.tree.map(
    np.testing.assert_array_equal, table.load(rules, saved, shapes), params
  )
