"""Conversion of NVIDIA's names, as by diffusers' converter, and back.

Shapes are those of NVIDIA's modules, written down here by themselves; that they
are right shows in the published numbers of parameters.
"""

import ml_dtypes
import numpy as np
from official_tensors import lazy, shapes, shapes_of, size, unread
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import official
from sana_jax.weights.table import WeightError
from sana_jax.weights.tensors import stored

pytestmark = pytest.mark.fast

VARIANTS = {
  'base': {},
  'qk_norm': {'norm': True},
  'sprint': {'norm': True, 'sprint': True},
  'controlnet': {'control': 2},
  'controlnet with norms': {'control': 2, 'norm': True},
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
NORMED_CONTROL = [
  (
    'controlnet.1.copied_block.attn.q_norm.weight',
    None,
    'transformer_blocks.1.attn1.norm_q.weight',
  ),
]


def test_each_tensor_has_the_right_name(tensors):
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
    places['controlnet'] = CONTROL + (NORMED_CONTROL if norm else [])
  assert parts.keys() == places.keys()
  for part, rows in places.items():
    for theirs, span, ours in rows:
      want = tensors[theirs][slice(*(span or (None,)))]
      np.testing.assert_array_equal(parts[part][ours].read(), want, strict=True)


def test_a_round_trip_preserves_every_byte(tensors):
  dropped = {
    'pos_embed': np.zeros((1, 16, 64)),
    'y_embedder.y_embedding': np.ones((300, 2304)),
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
@pytest.mark.long
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
def test_published_models_are_converted_completely(
  width, depth, options, count
):
  theirs = unread(shapes(width, depth, **options))
  assert size(theirs) == count
  ours = official.to_diffusers(theirs)['transformer']
  assert size(ours) == count


@pytest.mark.parametrize(
  'width, count', [(1152, 155_149_056), (2240, 585_603_200)]
)
def test_published_controlnets_are_converted_completely(width, count):
  theirs = unread(shapes(width, 28, control=7))
  assert size(theirs) - size(shapes_of(width, 28)) == count
  parts = official.to_diffusers(theirs)
  shared = 32 * width + 256 * width + 2304 * width + 8 * width**2 + 12 * width
  assert size(parts['controlnet']) == count + shared
  assert size(parts['transformer']) == size(shapes_of(width, 28))


def test_one_error_lists_all_problems():
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
  found = [problem.split()[0] for problem in e.value.value]
  for name in (
    'final_layer.linear.bias',
    'surplus',
    'blocks.1.attn.proj.bias',
    'blocks.2.attn.qkv.bias',
  ):
    assert name in found


def test_an_absurd_number_in_a_name_is_a_short_error():
  named = shapes(64, 1) | {'blocks.99999999999.attn.proj.bias': (64,)}
  with pytest.raises(WeightError, match=r'\d+ more') as e:
    official.to_diffusers(unread(named))
  assert len(str(e.value).splitlines()) < 30


def test_a_projection_that_cannot_be_split_is_reported():
  named = shapes(64, 1) | {'blocks.0.attn.qkv.weight': (190, 64)}
  with pytest.raises(WeightError) as error:
    official.to_diffusers(unread(named))
  assert [p.split()[0] for p in error.value.value] == [
    'blocks.0.attn.qkv.weight'
  ]
  assert '(190, 64)' in error.value.value[0]


def test_a_file_without_blocks_is_not_a_transformer():
  named = {k: s for k, s in shapes(64, 1).items() if k[:6] != 'blocks'}
  with pytest.raises(WeightError) as error:
    official.to_diffusers(unread(named))
  assert 'blocks.0.attn.qkv.weight' in [p.split()[0] for p in error.value.value]


def test_tensors_without_nvidia_s_name_are_reported():
  named = official.to_diffusers(unread(shapes(64, 1)))['transformer']
  named |= unread(
    {
      'transformer_blocks.0.norm2.weight': (64,),
      'transformer_blocks.0.attn1.to_q.bias': (64,),
    }
  )
  with pytest.raises(WeightError) as error:
    official.from_diffusers({'transformer': named})
  assert [p.split()[0] for p in error.value.value] == [
    'transformer_blocks.0.norm2.weight',
    'transformer_blocks.0.attn1.to_q.bias',
  ]


def test_blocks_of_different_dtypes_are_reported():
  named = official.to_diffusers(unread(shapes(64, 1)))['transformer']
  key = 'transformer_blocks.0.attn1.to_k.weight'
  named[key] = unread({key: (64, 64)}, np.float16)[key]
  with pytest.raises(WeightError) as error:
    official.from_diffusers({'transformer': named})
  assert len(error.value.value) == 1 and key in error.value.value[0].split(', ')


def test_a_controlnet_requires_its_own_transformer():
  parts = official.to_diffusers(
    lazy(
      {k: np.zeros(s, np.float32) for k, s in shapes(64, 1, control=1).items()}
    )
  )
  with pytest.raises(UserError) as error:
    official.from_diffusers({'controlnet': parts['controlnet']})
  assert (error.value.key, error.value.value) == ('--part', ['controlnet'])
  with pytest.raises(UserError) as error:
    official.from_diffusers(parts | {'vae': {}})
  assert error.value.key == '--part' and 'vae' in error.value.value
  parts['controlnet']['time_embed.linear.bias'] = stored(
    np.ones(384, np.float32)
  )
  with pytest.raises(UserError) as error:
    official.from_diffusers(parts)
  assert (error.value.key, error.value.value) == ('--base', ['t_block.1.bias'])


def test_official_files_are_recognized():
  assert official.matches(unread(shapes(64, 1)))
  assert not official.matches(unread({'encoder.conv_in.weight': (3,)}))
