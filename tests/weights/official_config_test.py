"""Configs inferred from tensors with NVIDIA's names."""

from official_tensors import shapes, unread
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import official


# reference: diffusers' converter and published configs.
@pytest.mark.long
@pytest.mark.parametrize(
  'width, depth, options, side, want',
  [
    (
      1152,
      28,
      {},
      16,
      {
        'num_attention_heads': 36,
        'num_layers': 28,
        'sample_size': 16,
        'num_cross_attention_heads': 16,
        'cross_attention_head_dim': 72,
        'cross_attention_dim': 1152,
        'interpolation_scale': None,
        'qk_norm': None,
        'guidance_embeds': False,
      },
    ),
    (
      2240,
      20,
      {},
      64,
      {
        'num_attention_heads': 70,
        'num_layers': 20,
        'sample_size': 64,
        'num_cross_attention_heads': 20,
        'cross_attention_head_dim': 112,
        'interpolation_scale': 1.0,
      },
    ),
    (2240, 20, {}, 128, {'sample_size': 128, 'interpolation_scale': 2.0}),
    (
      2240,
      60,
      {'norm': True},
      None,
      {
        'num_layers': 60,
        'qk_norm': 'rms_norm_across_heads',
        'sample_size': 32,
        'guidance_embeds': False,
        'interpolation_scale': None,
      },
    ),
    (
      1152,
      28,
      {'norm': True, 'sprint': True},
      32,
      {'qk_norm': 'rms_norm_across_heads', 'guidance_embeds': True},
    ),
  ],
)
def test_the_config_is_inferred(width, depth, options, side, want):
  tensors = unread(
    shapes(width, depth, **options)
    | ({'pos_embed': (1, side**2, width)} if side else {})
  )
  got = official.config(
    'transformer', official.to_diffusers(tensors)['transformer'], tensors
  )
  always = {
    '_class_name': 'SanaTransformer2DModel',
    'in_channels': 32,
    'out_channels': 32,
    'attention_head_dim': 32,
    'caption_channels': 2304,
    'mlp_ratio': 2.5,
    'patch_size': 1,
    'norm_elementwise_affine': False,
  }
  assert {key: got[key] for key in always | want} == always | want


def test_the_config_of_a_controlnet_is_inferred():
  parts = official.to_diffusers(unread(shapes(2240, 20, control=7)))
  got = official.config('controlnet', parts['controlnet'])
  assert got['_class_name'] == 'SanaControlNetModel'
  assert (got['num_layers'], got['num_attention_heads']) == (7, 70)
  base = official.config('transformer', parts['transformer'])
  assert base['num_layers'] == 20


@pytest.mark.parametrize('hidden', [1, 7, 80, 99, 161])
def test_any_width_of_the_ffn_is_reproduced(hidden):
  ours = {
    'patch_embed.proj.weight': (96, 4, 2, 2),
    'proj_out.weight': (32, 96),
    'caption_projection.linear_1.weight': (96, 5),
    'transformer_blocks.0.ff.conv_inverted.weight': (2 * hidden, 96, 1, 1),
  }
  got = official.config('transformer', unread(ours), cross_heads=4)
  assert int(got['mlp_ratio'] * 96) == hidden
  assert (
    got['patch_size'],
    got['out_channels'],
    got['caption_channels'],
    got['cross_attention_head_dim'],
  ) == (2, 8, 5, 24)


def test_unknown_numbers_of_heads_are_an_error():
  named = official.to_diffusers(unread(shapes(64, 1)))['transformer']
  with pytest.raises(UserError) as error:
    official.config('transformer', named)
  assert (error.value.key, error.value.value) == ('--like', 64)
