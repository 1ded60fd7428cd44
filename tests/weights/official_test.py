"""NVIDIA's names: each tensor where diffusers' converter puts it, and back.

Shapes are those of NVIDIA's modules, written down here by themselves; that they
are right shows in the published numbers of parameters.
"""

import math

import ml_dtypes
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import official
from sana_jax.weights.table import WeightError
from sana_jax.weights.tensors import Stored, stored


def linear(name, n_out, n_in, bias=True):
  return {f'{name}.weight': (n_out, n_in)} | (
    {f'{name}.bias': (n_out,)} if bias else {}
  )


def block(name, width, norm):
  hidden = int(2.5 * width)
  out = {
    'scale_shift_table': (6, width),
    **linear('attn.qkv', 3 * width, width, bias=False),
    **linear('attn.proj', width, width),
    **linear('cross_attn.q_linear', width, width),
    **linear('cross_attn.kv_linear', 2 * width, width),
    **linear('cross_attn.proj', width, width),
    'mlp.inverted_conv.conv.weight': (2 * hidden, width, 1, 1),
    'mlp.inverted_conv.conv.bias': (2 * hidden,),
    'mlp.depth_conv.conv.weight': (2 * hidden, 1, 3, 3),
    'mlp.depth_conv.conv.bias': (2 * hidden,),
    'mlp.point_conv.conv.weight': (width, hidden, 1, 1),
  }
  if norm:
    out |= {
      f'{a}.{x}_norm.weight': (width,)
      for a in ('attn', 'cross_attn')
      for x in 'qk'
    }
  return {f'{name}.{key}': shape for key, shape in out.items()}


def shapes(width, depth, norm=False, sprint=False, control=0):
  """Names and shapes of NVIDIA's SanaMS and SanaMSControlNet, no buffers."""
  out = {
    'x_embedder.proj.weight': (width, 32, 1, 1),
    'x_embedder.proj.bias': (width,),
    **linear('t_embedder.mlp.0', width, 256),
    **linear('t_embedder.mlp.2', width, width),
    **linear('t_block.1', 6 * width, width),
    **linear('y_embedder.y_proj.fc1', width, 2304),
    **linear('y_embedder.y_proj.fc2', width, width),
    'attention_y_norm.weight': (width,),
    'final_layer.scale_shift_table': (2, width),
    **linear('final_layer.linear', 32, width),
  }
  for i in range(depth):
    out |= block(f'blocks.{i}', width, norm)
  if sprint:
    out |= linear('cfg_embedder.mlp.0', width, 256)
    out |= linear('cfg_embedder.mlp.2', width, width)
    out |= linear('logvar_linear', 1, width)
  for i in range(control):
    out |= block(f'controlnet.{i}.copied_block', width, False)
    out |= linear(f'controlnet.{i}.after_proj', width, width)
  return out | (
    linear('controlnet.0.before_proj', width, width) if control else {}
  )


VARIANTS = {
  'base': {},
  'qk_norm': {'norm': True},
  'sprint': {'norm': True, 'sprint': True},
  'controlnet': {'control': 2},
}


@pytest.fixture(params=VARIANTS)
def tensors(request):
  """A tiny file's tensors, as arrays of several dtypes."""
  rng = np.random.default_rng()
  out = {}
  for i, (name, shape) in enumerate(
    shapes(64, 3, **VARIANTS[request.param]).items()
  ):
    dtype = (np.float32, np.float16, ml_dtypes.bfloat16)[i % 3]
    out[name] = rng.normal(size=shape).astype(dtype)
  return out


def lazy(tensors):
  return {name: stored(x) for name, x in tensors.items()}


def unread(named_shapes, dtype=np.float32):
  """Tensors whose values must not be read."""

  def fetch(a, b):
    raise AssertionError('a name was looked up, and a value read')

  return {
    name: Stored(shape, np.dtype(dtype), fetch)
    for name, shape in named_shapes.items()
  }


def size(tensors):
  return sum(math.prod(t.shape) for t in tensors.values())


# (NVIDIA's, row block or None, diffusers'): from diffusers' converter script.
PLACES = [
  ('x_embedder.proj.weight', None, 'patch_embed.proj.weight'),
  ('y_embedder.y_proj.fc2.bias', None, 'caption_projection.linear_2.bias'),
  ('attention_y_norm.weight', None, 'caption_norm.weight'),
  ('t_block.1.weight', None, 'time_embed.linear.weight'),
  (
    'blocks.2.scale_shift_table',
    None,
    'transformer_blocks.2.scale_shift_table',
  ),
  (
    'blocks.2.attn.qkv.weight',
    (0, 64),
    'transformer_blocks.2.attn1.to_q.weight',
  ),
  (
    'blocks.2.attn.qkv.weight',
    (64, 128),
    'transformer_blocks.2.attn1.to_k.weight',
  ),
  (
    'blocks.2.attn.qkv.weight',
    (128, 192),
    'transformer_blocks.2.attn1.to_v.weight',
  ),
  ('blocks.1.attn.proj.bias', None, 'transformer_blocks.1.attn1.to_out.0.bias'),
  (
    'blocks.1.cross_attn.q_linear.bias',
    None,
    'transformer_blocks.1.attn2.to_q.bias',
  ),
  (
    'blocks.1.cross_attn.kv_linear.bias',
    (0, 64),
    'transformer_blocks.1.attn2.to_k.bias',
  ),
  (
    'blocks.1.cross_attn.kv_linear.weight',
    (64, 128),
    'transformer_blocks.1.attn2.to_v.weight',
  ),
  (
    'blocks.0.mlp.inverted_conv.conv.weight',
    None,
    'transformer_blocks.0.ff.conv_inverted.weight',
  ),
  (
    'blocks.0.mlp.depth_conv.conv.bias',
    None,
    'transformer_blocks.0.ff.conv_depth.bias',
  ),
  (
    'blocks.0.mlp.point_conv.conv.weight',
    None,
    'transformer_blocks.0.ff.conv_point.weight',
  ),
  ('final_layer.linear.bias', None, 'proj_out.bias'),
  ('final_layer.scale_shift_table', None, 'scale_shift_table'),
]
NORMED = [
  (
    'blocks.2.attn.q_norm.weight',
    None,
    'transformer_blocks.2.attn1.norm_q.weight',
  ),
  (
    'blocks.2.cross_attn.k_norm.weight',
    None,
    'transformer_blocks.2.attn2.norm_k.weight',
  ),
]
BASE_TIME = [
  (
    't_embedder.mlp.0.weight',
    None,
    'time_embed.emb.timestep_embedder.linear_1.weight',
  ),
  (
    't_embedder.mlp.2.bias',
    None,
    'time_embed.emb.timestep_embedder.linear_2.bias',
  ),
]
SPRINT_TIME = [
  ('t_embedder.mlp.2.bias', None, 'time_embed.timestep_embedder.linear_2.bias'),
  (
    'cfg_embedder.mlp.0.weight',
    None,
    'time_embed.guidance_embedder.linear_1.weight',
  ),
]
CONTROL = (
  BASE_TIME
  + PLACES[:4]
  + [
    ('controlnet.0.before_proj.weight', None, 'input_block.weight'),
    ('controlnet.1.after_proj.bias', None, 'controlnet_blocks.1.bias'),
    (
      'controlnet.1.copied_block.attn.qkv.weight',
      (64, 128),
      'transformer_blocks.1.attn1.to_k.weight',
    ),
    (
      'controlnet.1.copied_block.mlp.point_conv.conv.weight',
      None,
      'transformer_blocks.1.ff.conv_point.weight',
    ),
  ]
)


def test_each_tensor_comes_to_its_place(tensors):
  parts = official.to_diffusers(lazy(tensors))
  sprint, norm = (
    'cfg_embedder.mlp.0.bias' in tensors,
    ('blocks.0.attn.q_norm.weight' in tensors),
  )
  places = {
    'transformer': PLACES
    + (SPRINT_TIME if sprint else BASE_TIME)
    + (NORMED if norm else [])
  }
  if 'controlnet.0.before_proj.bias' in tensors:
    places['controlnet'] = CONTROL
  assert parts.keys() == places.keys()
  for part, rows in places.items():
    for theirs, span, ours in rows:
      want = tensors[theirs][slice(*(span or (None,)))]
      np.testing.assert_array_equal(parts[part][ours].read(), want, strict=True)


def test_there_and_back_every_byte_is_the_same(tensors):
  dropped = {
    'pos_embed': np.zeros((1, 16, 64)),
    'y_embedder.y_embedding': np.ones((300, 2304)),
    'logvar_linear.weight': np.ones((1, 64)),
    'logvar_linear.bias': np.ones(1),
  }
  parts = official.to_diffusers(lazy(tensors | dropped))
  back = official.from_diffusers(parts)
  assert back.keys() == tensors.keys() - dropped.keys()
  for name, tensor in back.items():
    assert tensor.dtype == tensors[name].dtype
    assert tensor.shape == tensors[name].shape
    assert tensor.read().tobytes() == tensors[name].tobytes()


def test_a_converted_tensor_is_read_by_rows():
  x = np.random.default_rng().normal(size=(192, 64))
  named = lazy(
    {k: np.zeros(s) for k, s in shapes(64, 1).items()}
    | {'blocks.0.attn.qkv.weight': x}
  )
  out = official.to_diffusers(named)['transformer']
  np.testing.assert_array_equal(
    out['transformer_blocks.0.attn1.to_v.weight'].fetch(3, 9), x[131:137]
  )


# Parameters by NVIDIA's count, which is of what is trained.
@pytest.mark.parametrize(
  'width, depth, options, count',
  [
    (1152, 28, {}, 591_747_872),
    (2240, 20, {}, 1_604_462_752),
    (2240, 20, {'norm': True}, 1_604_641_952),
    (2240, 60, {'norm': True}, 4_721_825_952),
    (1152, 28, {'norm': True, 'sprint': True}, 593_502_369),
    (2240, 20, {'norm': True, 'sprint': True}, 1_610_239_713),
  ],
)
def test_published_models_arrive_whole(width, depth, options, count):
  theirs = unread(shapes(width, depth, **options))
  assert size(theirs) == count
  ours = official.to_diffusers(theirs)['transformer']
  assert size(ours) == count - (width + 1) * bool(options.get('sprint'))


@pytest.mark.parametrize(
  'width, count', [(1152, 155_149_056), (2240, 585_603_200)]
)
def test_published_controlnets_arrive_whole(width, count):
  theirs = unread(shapes(width, 28, control=7))
  assert size(theirs) - size(shapes_of(width, 28)) == count
  parts = official.to_diffusers(theirs)
  shared = 32 * width + 256 * width + 2304 * width + 8 * width**2 + 12 * width
  assert size(parts['controlnet']) == count + shared
  assert size(parts['transformer']) == size(shapes_of(width, 28))


def shapes_of(width, depth):
  return unread(shapes(width, depth))


# reference: diffusers' converter and published configs.
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
def test_any_width_of_the_ffn_is_met(hidden):
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


def test_heads_that_no_tensor_tells_are_asked_for():
  named = official.to_diffusers(unread(shapes(64, 1)))['transformer']
  with pytest.raises(UserError, match='width 64 .*--like'):
    official.config('transformer', named)


def test_all_that_is_wrong_is_listed_at_once():
  named = {
    name: shape
    for name, shape in shapes(64, 3).items()
    if not name.startswith('blocks.1.')
  }
  named['blocks.2.attn.qkv.bias'] = (192,)
  named['surplus'] = (3,)
  del named['final_layer.linear.bias']
  with pytest.raises(WeightError) as e:
    official.to_diffusers(unread(named))
  for problem in (
    'final_layer.linear.bias is missing',
    'surplus is unknown',
    'blocks.1.attn.proj.bias is missing',
    'blocks.2.attn.qkv.bias is unknown',
  ):
    assert problem in str(e.value)


def test_a_wild_number_in_a_name_is_a_short_error():
  named = shapes(64, 1) | {'blocks.99999999999.attn.proj.bias': (64,)}
  with pytest.raises(WeightError, match='and [0-9]+ more') as e:
    official.to_diffusers(unread(named))
  assert len(str(e.value).splitlines()) < 30


def test_a_projection_that_cannot_be_split_is_told():
  named = shapes(64, 1) | {'blocks.0.attn.qkv.weight': (190, 64)}
  with pytest.raises(WeightError, match='qkv.weight .*not 3 blocks'):
    official.to_diffusers(unread(named))


def test_no_blocks_are_no_transformer():
  named = {k: s for k, s in shapes(64, 1).items() if k[:6] != 'blocks'}
  with pytest.raises(WeightError, match='blocks.0.attn.qkv.weight is missing'):
    official.to_diffusers(unread(named))


def test_what_nvidia_has_no_name_for_is_told():
  named = official.to_diffusers(unread(shapes(64, 1)))['transformer']
  named |= unread(
    {
      'transformer_blocks.0.norm2.weight': (64,),
      'transformer_blocks.0.attn1.to_q.bias': (64,),
    }
  )
  with pytest.raises(
    WeightError, match=(r'(?s)norm2.weight is unknown.*to_q.bias is unknown')
  ):
    official.from_diffusers({'transformer': named})


def test_blocks_of_different_dtypes_are_told():
  named = official.to_diffusers(unread(shapes(64, 1)))['transformer']
  key = 'transformer_blocks.0.attn1.to_k.weight'
  named[key] = unread({key: (64, 64)}, np.float16)[key]
  with pytest.raises(WeightError, match='not of one shape and dtype'):
    official.from_diffusers({'transformer': named})


def test_a_controlnet_goes_with_its_transformer_only():
  parts = official.to_diffusers(
    lazy(
      {k: np.zeros(s, np.float32) for k, s in shapes(64, 1, control=1).items()}
    )
  )
  with pytest.raises(UserError, match='holds a transformer.*--base'):
    official.from_diffusers({'controlnet': parts['controlnet']})
  with pytest.raises(UserError, match='holds a transformer.*got .*vae'):
    official.from_diffusers(parts | {'vae': {}})
  parts['controlnet']['time_embed.linear.bias'] = stored(
    np.ones(384, np.float32)
  )
  with pytest.raises(UserError, match=r'differ in t_block\.1\.bias,'):
    official.from_diffusers(parts)


def test_files_are_told_apart():
  assert official.knows(unread(shapes(64, 1)))
  assert not official.knows(unread({'encoder.conv_in.weight': (3,)}))
