"""Models by NVIDIA's names against what diffusers makes of them."""

import numpy as np
import pytest
from same_tensors import assert_same, eager, lazy

from sana_jax.weights import controlnet, efficientvit, official, pth

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')
pytestmark = pytest.mark.parity


# --- Sana ---------------------------------------------------------------------
TINY = dict(
  in_channels=4,
  out_channels=4,
  num_attention_heads=2,
  attention_head_dim=32,
  num_layers=3,
  num_cross_attention_heads=4,
  cross_attention_head_dim=16,
  cross_attention_dim=64,
  caption_channels=12,
)
NORM = 'rms_norm_across_heads'
VARIANTS = {
  'base': {},
  'qk_norm': {'qk_norm': NORM},
  'patch': {'patch_size': 2},
  'sprint': {'qk_norm': NORM, 'guidance_embeds': True},
}


def randomised(model):
  torch.manual_seed(int(np.random.SeedSequence().entropy % 2**31))
  with torch.no_grad():
    for x in (*model.parameters(), *model.buffers()):
      x.copy_(torch.randn(x.shape).to(x.dtype))
  return model


def block_as_nvidia_saves_it(state, ours, theirs):
  """Inverse of convert_sana_to_diffusers.py, for a block."""
  get = lambda name: state[f'{ours}.{name}']
  out = {
    'scale_shift_table': get('scale_shift_table'),
    'attn.qkv.weight': torch.cat([get(f'attn1.to_{x}.weight') for x in 'qkv']),
  }
  for kind in ('weight', 'bias'):
    out |= {
      f'attn.proj.{kind}': get(f'attn1.to_out.0.{kind}'),
      f'cross_attn.q_linear.{kind}': get(f'attn2.to_q.{kind}'),
      f'cross_attn.kv_linear.{kind}': torch.cat(
        [get(f'attn2.to_{x}.{kind}') for x in 'kv']
      ),
      f'cross_attn.proj.{kind}': get(f'attn2.to_out.0.{kind}'),
      f'mlp.inverted_conv.conv.{kind}': get(f'ff.conv_inverted.{kind}'),
      f'mlp.depth_conv.conv.{kind}': get(f'ff.conv_depth.{kind}'),
    }
  out['mlp.point_conv.conv.weight'] = get('ff.conv_point.weight')
  if f'{ours}.attn1.norm_q.weight' in state:
    for a, b in (('attn1', 'attn'), ('attn2', 'cross_attn')):
      for x in 'qk':
        out[f'{b}.{x}_norm.weight'] = get(f'{a}.norm_{x}.weight')
  return {f'{theirs}.{key}': x for key, x in out.items()}


LAYERS = {
  'patch_embed.proj': 'x_embedder.proj',
  'caption_projection.linear_1': 'y_embedder.y_proj.fc1',
  'caption_projection.linear_2': 'y_embedder.y_proj.fc2',
  'time_embed.linear': 't_block.1',
  'proj_out': 'final_layer.linear',
  'time_embed.emb.timestep_embedder.linear_1': 't_embedder.mlp.0',
  'time_embed.emb.timestep_embedder.linear_2': 't_embedder.mlp.2',
  'time_embed.timestep_embedder.linear_1': 't_embedder.mlp.0',
  'time_embed.timestep_embedder.linear_2': 't_embedder.mlp.2',
  'time_embed.guidance_embedder.linear_1': 'cfg_embedder.mlp.0',
  'time_embed.guidance_embedder.linear_2': 'cfg_embedder.mlp.2',
}


def as_nvidia_saves_it(state):
  """Inverse of both converter scripts of diffusers."""
  out = {'attention_y_norm.weight': state['caption_norm.weight']}
  for ours, theirs in LAYERS.items():
    if f'{ours}.weight' in state:
      out |= {f'{theirs}.{k}': state[f'{ours}.{k}'] for k in ('weight', 'bias')}
  control = 'input_block.weight' in state
  for i in range(TINY['num_layers']):
    out |= block_as_nvidia_saves_it(
      state,
      f'transformer_blocks.{i}',
      f'controlnet.{i}.copied_block' if control else f'blocks.{i}',
    )
    for k in ('weight', 'bias') if control else ():
      out[f'controlnet.{i}.after_proj.{k}'] = state[
        f'controlnet_blocks.{i}.{k}'
      ]
  if control:
    return out | {
      f'controlnet.0.before_proj.{k}': state[f'input_block.{k}']
      for k in ('weight', 'bias')
    }
  return out | {'final_layer.scale_shift_table': state['scale_shift_table']}


BUFFERS = {
  'pos_embed': torch.zeros(1, 16, 64),
  'y_embedder.y_embedding': torch.zeros(300, 12),
}


@pytest.mark.parametrize('name', VARIANTS)
def test_official_transformers_convert_as_in_diffusers(tmp_path, name):
  model = randomised(diffusers.SanaTransformer2DModel(**TINY, **VARIANTS[name]))
  theirs = as_nvidia_saves_it(model.state_dict())
  torch.save({'state_dict': theirs | BUFFERS}, tmp_path / 'x.pth')
  got = official.to_diffusers(pth.read(tmp_path / 'x.pth'))['transformer']
  assert_same(eager(got), model.state_dict())
  config = official.config('transformer', got, cross_heads=4)
  again = diffusers.SanaTransformer2DModel.from_config(config)
  again.load_state_dict(eager(got), strict=True)
  pth.write(tmp_path / 'y.pth', official.from_diffusers({'transformer': got}))
  assert_same(
    torch.load(tmp_path / 'y.pth', weights_only=True)['state_dict'], theirs
  )


def test_the_base_model_converts_as_in_diffusers_single_file_loader():
  from diffusers.loaders import single_file_utils

  model = randomised(diffusers.SanaTransformer2DModel(**TINY))
  theirs = as_nvidia_saves_it(model.state_dict()) | BUFFERS
  got = official.to_diffusers(lazy(theirs))['transformer']
  assert_same(
    eager(got),
    single_file_utils.convert_sana_transformer_to_diffusers(dict(theirs)),
  )


def test_official_controlnets_convert_as_in_diffusers():
  base = randomised(diffusers.SanaTransformer2DModel(**TINY)).state_dict()
  model = randomised(diffusers.SanaControlNetModel(**TINY))
  state = model.state_dict()
  state |= {k: base[k] for k in state if k in base and '_blocks' not in k}
  theirs = as_nvidia_saves_it(state) | as_nvidia_saves_it(base)
  got = official.to_diffusers(lazy(theirs | BUFFERS))
  assert_same(eager(got['controlnet']), state)
  assert_same(eager(got['transformer']), base)
  config = official.config('controlnet', got['controlnet'], cross_heads=4)
  diffusers.SanaControlNetModel.from_config(config).load_state_dict(
    eager(got['controlnet']), strict=True
  )
  assert_same(eager(official.from_diffusers(got)), theirs)


def test_controlnets_with_norms_hold_the_blocks_of_a_transformer_with_norms():
  normed = TINY | VARIANTS['qk_norm']
  base = randomised(diffusers.SanaTransformer2DModel(**normed)).state_dict()
  model = diffusers.SanaControlNetModel(**TINY)
  blocks = randomised(diffusers.SanaTransformer2DModel(**normed))
  model.transformer_blocks = blocks.transformer_blocks
  state = model.state_dict()
  state |= {k: base[k] for k in state if k in base and '_blocks' not in k}
  theirs = as_nvidia_saves_it(state) | as_nvidia_saves_it(base)
  got = official.to_diffusers(lazy(theirs | BUFFERS))
  assert_same(eager(got['controlnet']), state)
  assert_same(eager(official.from_diffusers(got)), theirs)
  config = official.config('controlnet', got['controlnet'], cross_heads=4)
  assert config['_class_name'] == controlnet.NORMED_CLASS


# --- DC-AE --------------------------------------------------------------------
RES, VIT = 'ResBlock', 'EfficientViTBlock'
SANA = dict(
  latent_channels=4,
  attention_head_dim=8,
  encoder_block_types=[RES, RES, VIT],
  decoder_block_types=[RES, RES, VIT],
  encoder_block_out_channels=[8, 16, 32],
  decoder_block_out_channels=[8, 16, 32],
  encoder_layers_per_block=[1, 2, 1],
  decoder_layers_per_block=[2, 1, 1],
  encoder_qkv_multiscales=[[], [], [5]],
  decoder_qkv_multiscales=[[], [], [5]],
  downsample_block_type='Conv',
  upsample_block_type='interpolate',
)
PLAIN = dict(
  encoder_qkv_multiscales=[[]] * 3,
  decoder_qkv_multiscales=[[]] * 3,
  downsample_block_type='pixel_unshuffle',
  upsample_block_type='pixel_shuffle',
)
AUTOENCODERS = {
  'sana': SANA,
  'in': SANA
  | PLAIN
  | dict(
    encoder_layers_per_block=[0, 1, 1],
    decoder_layers_per_block=[0, 2, 1],
    decoder_norm_types=['batch_norm', 'batch_norm', 'rms_norm'],
    decoder_act_fns=['relu', 'relu', 'silu'],
  ),
  'with a first stage': SANA | PLAIN,
  'lite': SANA
  | dict(
    decoder_block_types=[RES] * 3,
    decoder_layers_per_block=[0, 2, 1],
    decoder_qkv_multiscales=[[]] * 3,
    upsample_block_type='pixel_shuffle',
    decoder_conv_act_fn='silu',
  ),
  'strided, no first stage': SANA
  | dict(
    encoder_layers_per_block=[0, 1, 1], decoder_layers_per_block=[0, 1, 1]
  ),
}
CONVERTED = ('sana', 'in', 'with a first stage')  # The others, it cannot.


@pytest.mark.parametrize('name', AUTOENCODERS)
def test_autoencoders_convert_as_in_diffusers(name):
  from diffusers.loaders import single_file_utils

  model = randomised(diffusers.AutoencoderDC(**AUTOENCODERS[name]))
  state = model.state_dict()
  theirs = eager(efficientvit.from_diffusers(lazy(state), model.config))
  got = eager(efficientvit.to_diffusers(lazy(theirs)))
  assert_same(got, state)
  model.load_state_dict(got, strict=True)
  converted = single_file_utils.convert_autoencoder_dc_checkpoint_to_diffusers(
    dict(theirs)
  )
  if name in CONVERTED:
    assert_same(got, converted)
  else:
    assert got.keys() != converted.keys()
