"""Conversion of mit-han-lab's names for the DC-AE, in both directions.

Names and shapes are written down here after the modules of their repository;
that they are right shows in the published numbers of tensors and parameters.
"""

import math

from efficientvit_shapes import PUBLISHED, SANA, TINY
import numpy as np
import pytest

from sana_jax.weights import efficientvit
from sana_jax.weights.table import WeightError
from sana_jax.weights.tensors import Stored, stored

pytestmark = pytest.mark.fast

STRIDED = {'downsample_block_type': 'Conv'}
CONFIGS = {'sana': STRIDED, 'lite': STRIDED, 'strided, no first stage': STRIDED}


def unread(named_shapes):
  """Tensors whose values must not be read."""

  def fetch(a, b):
    raise AssertionError('a name was looked up, and a value read')

  return {
    name: Stored(shape, np.dtype(np.float32), fetch)
    for name, shape in named_shapes.items()
  }


@pytest.fixture(params=TINY)
def model(request):
  """A tiny model's tensors, and its diffusers config."""
  rng = np.random.default_rng()
  return {
    name: rng.normal(size=shape).astype(
      np.int64 if name.endswith('tracked') else np.float32
    )
    for name, shape in TINY[request.param].items()
  }, CONFIGS.get(request.param, {})


# Tensors and trained parameters, as diffusers has them.
@pytest.mark.parametrize(
  'name, tensors, parameters',
  [
    ('sana', 375, 312_250_275),
    ('lite', 293, 421_181_228),
    ('f32c32', 362, 323_356_460),
    ('f64c128', 418, 676_896_140),
    ('f128c512', 474, 1_120_682_252),
  ],
)
def test_published_models_are_converted_completely(name, tensors, parameters):
  named = efficientvit.to_diffusers(unread(PUBLISHED[name]))
  assert len(named) == tensors
  assert parameters == sum(
    math.prod(t.shape)
    for k, t in named.items()
    if not k.endswith(('mean', 'var', 'tracked'))
  )


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_models_are_converted_back(name):
  there = efficientvit.to_diffusers(unread(PUBLISHED[name]))
  back = efficientvit.from_diffusers(there, CONFIGS.get(name, {}))
  assert {k: t.shape for k, t in back.items()} == PUBLISHED[name]


def test_a_round_trip_preserves_every_byte(model):
  tensors, config = model
  back = efficientvit.from_diffusers(
    efficientvit.to_diffusers({k: stored(x) for k, x in tensors.items()}),
    config,
  )
  assert back.keys() == tensors.keys()
  for name, tensor in back.items():
    assert tensor.shape == tensors[name].shape
    assert tensor.dtype == tensors[name].dtype
    assert tensor.read().tobytes() == tensors[name].tobytes()


# (mit-han-lab's, row block or None, diffusers'): from diffusers' converter.
PLACES = [
  ('encoder.project_in.conv.weight', None, 'encoder.conv_in.weight'),
  (
    'encoder.stages.0.op_list.0.main.conv1.conv.bias',
    None,
    'encoder.down_blocks.0.0.conv1.bias',
  ),
  (
    'encoder.stages.0.op_list.1.main.conv.weight',
    None,
    'encoder.down_blocks.0.1.conv.weight',
  ),
  (
    'encoder.stages.1.op_list.1.main.conv2.norm.bias',
    None,
    'encoder.down_blocks.1.1.norm.bias',
  ),
  (
    'encoder.stages.2.op_list.0.context_module.main.qkv.conv.weight',
    (32, 64),
    'encoder.down_blocks.2.0.attn.to_k.weight',
  ),
  (
    'encoder.stages.2.op_list.0.context_module.main.proj.conv.weight',
    (0, 32),
    'encoder.down_blocks.2.0.attn.to_out.weight',
  ),
  (
    'encoder.stages.2.op_list.0.context_module.main.proj.norm.bias',
    None,
    'encoder.down_blocks.2.0.attn.norm_out.bias',
  ),
  (
    'encoder.stages.2.op_list.0.context_module.main.aggreg.0.0.weight',
    None,
    'encoder.down_blocks.2.0.attn.to_qkv_multiscale.0.proj_in.weight',
  ),
  (
    'encoder.stages.2.op_list.0.context_module.main.aggreg.0.1.weight',
    None,
    'encoder.down_blocks.2.0.attn.to_qkv_multiscale.0.proj_out.weight',
  ),
  (
    'encoder.stages.2.op_list.0.local_module.main.depth_conv.conv.weight',
    None,
    'encoder.down_blocks.2.0.conv_out.conv_depth.weight',
  ),
  (
    'encoder.project_out.main.op_list.0.conv.weight',
    None,
    'encoder.conv_out.weight',
  ),
  ('decoder.project_in.main.conv.weight', None, 'decoder.conv_in.weight'),
  (
    'decoder.stages.1.op_list.0.main.conv.conv.bias',
    None,
    'decoder.up_blocks.1.0.conv.bias',
  ),
  (
    'decoder.stages.2.op_list.0.local_module.main.point_conv.norm.weight',
    None,
    'decoder.up_blocks.2.0.conv_out.norm.weight',
  ),
  ('decoder.project_out.op_list.0.weight', None, 'decoder.norm_out.weight'),
  ('decoder.project_out.op_list.2.conv.bias', None, 'decoder.conv_out.bias'),
]


def test_each_tensor_has_the_right_name():
  rng = np.random.default_rng()
  tensors = {k: rng.normal(size=s) for k, s in TINY['sana'].items()}
  got = efficientvit.to_diffusers({k: stored(x) for k, x in tensors.items()})
  for theirs, span, ours in PLACES:
    want = tensors[theirs]
    if span:
      want = want[slice(*span), :, 0, 0]
    np.testing.assert_array_equal(got[ours].read(), want, strict=True)


@pytest.mark.parametrize(
  'name, theirs, ours',
  [
    (
      'lite',
      'decoder.project_out.op_list.2.conv.conv.weight',
      'decoder.conv_out.conv.weight',
    ),
    ('in', 'encoder.project_in.conv.conv.bias', 'encoder.conv_in.conv.bias'),
    (
      'in',
      'encoder.stages.1.op_list.2.main.conv.conv.weight',
      'encoder.down_blocks.1.2.conv.weight',
    ),
    (
      'in',
      'decoder.stages.1.op_list.1.main.conv2.norm.running_var',
      'decoder.up_blocks.1.1.norm.running_var',
    ),
    (
      'strided, no first stage',
      'encoder.project_in.conv.bias',
      'encoder.conv_in.conv.bias',
    ),
  ],
)
def test_other_variants_have_other_names(name, theirs, ours):
  x = np.random.default_rng().normal(size=TINY[name][theirs])
  got = efficientvit.to_diffusers(unread(TINY[name]) | {theirs: stored(x)})
  np.testing.assert_array_equal(got[ours].read(), x, strict=True)


def test_one_error_lists_all_problems():
  named = dict(TINY['sana'], surplus=(1,))
  named['decoder.stages.0.op_list.0.main.conv2.norm.running_var'] = (8,)
  del named['encoder.stages.0.op_list.0.main.conv1.conv.bias']
  del named['decoder.project_out.op_list.0.bias']
  with pytest.raises(WeightError) as e:
    efficientvit.to_diffusers(unread(named))
  found = [problem.split()[0] for problem in e.value.value]
  for name in (
    'encoder.stages.0.op_list.0.main.conv1.conv.bias',
    'decoder.project_out.op_list.0.bias',
    'surplus',
  ):
    assert name in found
  assert any(
    name.endswith('op_list.0.main.conv2.norm.running_mean') for name in found
  )


def test_tensors_without_an_official_name_are_reported():
  named = efficientvit.to_diffusers(unread(TINY['sana']))
  del named['encoder.down_blocks.2.0.attn.to_k.weight']
  named |= unread({'decoder.up_blocks.0.0.shift': (3,)})
  with pytest.raises(WeightError) as error:
    efficientvit.from_diffusers(named, STRIDED)
  assert [problem.split()[0] for problem in error.value.value] == [
    'encoder.down_blocks.2.0.attn.to_k.weight',
    'decoder.up_blocks.0.0.shift',
  ]


def test_a_file_that_is_not_an_autoencoder_is_reported():
  with pytest.raises(WeightError) as error:
    efficientvit.from_diffusers(unread({'patch_embed.proj.weight': (3,)}), {})
  assert 'decoder.norm_out.weight' in str(error.value)
  assert error.value.value[-1].split()[0] == 'patch_embed.proj.weight'


def test_models_without_shortcuts_have_their_own_names():
  named = {
    k.replace('project_out.main.', 'project_out.').replace(
      'project_in.main.', 'project_in.'
    ): s
    for k, s in TINY['in'].items()
  }
  there = efficientvit.to_diffusers(unread(named))
  assert there.keys() == efficientvit.to_diffusers(unread(TINY['in'])).keys()
  back = efficientvit.from_diffusers(
    there, {'encoder_out_shortcut': False, 'decoder_in_shortcut': False}
  )
  assert back.keys() == named.keys()


def test_official_files_are_recognized():
  assert efficientvit.matches(unread(SANA))
  assert not efficientvit.matches(efficientvit.to_diffusers(unread(SANA)))
