"""mit-han-lab's names for the DC-AE: each tensor to its place, and back.

Names and shapes are written down here after the modules of their repository;
that they are right shows in the published numbers of tensors and parameters.
"""

import math

import numpy as np
import pytest

from sana_jax.weights import efficientvit
from sana_jax.weights.table import WeightError
from sana_jax.weights.tensors import Stored, stored

WIDTHS = (128, 256, 512, 512, 1024, 1024)
RRRVVV = 'rrrvvv'


def conv(name, n_out, n_in, kernel=3, bias=True):
  return {f'{name}.weight': (n_out, n_in, kernel, kernel)} | (
    {f'{name}.bias': (n_out,)} if bias else {}
  )


def norm(name, width, batch=False):
  out = {f'{name}.weight': (width,), f'{name}.bias': (width,)}
  return out | (
    {
      f'{name}.running_mean': (width,),
      f'{name}.running_var': (width,),
      f'{name}.num_batches_tracked': (),
    }
    if batch
    else {}
  )


def block(kind, c, scales, batch, dim=32):
  if kind == 'r':
    return {
      **conv('main.conv1.conv', c, c),
      **conv('main.conv2.conv', c, c, bias=False),
      **norm('main.conv2.norm', c, batch),
    }
  a, f = 'context_module.main', 'local_module.main'
  out = {
    **conv(f'{a}.qkv.conv', 3 * c, c, 1, bias=False),
    **conv(f'{a}.proj.conv', c, c * (1 + len(scales)), 1, bias=False),
    **norm(f'{a}.proj.norm', c, batch),
  }
  for i, size in enumerate(scales):
    out |= conv(f'{a}.aggreg.{i}.0', 3 * c, 1, size, bias=False)
    out |= conv(f'{a}.aggreg.{i}.1', 3 * c, dim, 1, bias=False)
  return {
    **out,
    **conv(f'{f}.inverted_conv.conv', 8 * c, c, 1),
    **conv(f'{f}.depth_conv.conv', 8 * c, 1),
    **conv(f'{f}.point_conv.conv', c, 4 * c, 1, bias=False),
    **norm(f'{f}.point_conv.norm', c),
  }


def stages(side, kinds, widths, depths, scales, batch, plain):
  out, down = {}, side == 'encoder'
  for s, (kind, c, depth) in enumerate(zip(kinds, widths, depths, strict=True)):
    layers = [
      block(kind, c, scales if kind == 'v' else (), batch[s])
      for _ in range(depth)
    ]
    if depth and s + 1 < len(widths):
      wide = widths[s + 1]
      if down:
        layers.append(
          conv('main.conv', wide, c)
          if plain
          else conv('main.conv.conv', wide // 4, c)
        )
      else:
        layers.insert(0, conv('main.conv.conv', c if plain else 4 * c, wide))
    for b, layer in enumerate(layers):
      out |= {f'{side}.stages.{s}.op_list.{b}.{k}': v for k, v in layer.items()}
  return out


def shapes(
  latent,
  widths,
  encoder,
  decoder,
  *,
  kinds=RRRVVV,
  scales=(),
  decoder_kinds=None,
  batch=None,
  strided=False,
  interpolated=False,
):
  batch = batch or [False] * len(widths)
  first = widths[0] if encoder[0] else widths[1]
  last = widths[0] if decoder[0] else widths[1]
  stride = not encoder[0] and not strided
  return {
    **conv(
      'encoder.project_in.conv' + '.conv' * stride,
      first // 4 if stride else first,
      3,
    ),
    **stages('encoder', kinds, widths, encoder, scales, [False] * 9, strided),
    **conv('encoder.project_out.main.op_list.0.conv', latent, widths[-1]),
    **conv('decoder.project_in.main.conv', widths[-1], latent),
    **stages(
      'decoder',
      decoder_kinds or kinds,
      widths,
      decoder,
      scales,
      batch,
      interpolated,
    ),
    **norm('decoder.project_out.op_list.0', last),
    **conv(
      'decoder.project_out.op_list.2.conv' + '.conv' * (not decoder[0]),
      3 if decoder[0] or interpolated else 12,
      last,
    ),
  }


SANA = shapes(
  32,
  WIDTHS,
  (2, 2, 2, 3, 3, 3),
  (3,) * 6,
  scales=(5,),
  strided=True,
  interpolated=True,
)
LITE = shapes(
  32,
  WIDTHS,
  (2, 2, 2, 3, 3, 3),
  (0, 3, 5, 4, 4, 4),
  scales=(5,),
  decoder_kinds='rrrrrr',
  strided=True,
)
BATCH = [True] * 3 + [False] * 5
F32 = shapes(32, WIDTHS, (0, 4, 8, 2, 2, 2), (0, 5, 10, 2, 2, 2), batch=BATCH)
F64 = shapes(
  128,
  (*WIDTHS, 2048),
  (0, 4, 8, 2, 2, 2, 2),
  (0, 5, 10, 2, 2, 2, 2),
  kinds='rrrvvvv',
  batch=BATCH,
)
F128 = shapes(
  512,
  (*WIDTHS, 2048, 2048),
  (0, 4, 8, 2, 2, 2, 2, 2),
  (0, 5, 10, 2, 2, 2, 2, 2),
  kinds='rrrvvvvv',
  batch=BATCH,
)
PUBLISHED = {
  'sana': SANA,
  'lite': LITE,
  'f32c32': F32,
  'f64c128': F64,
  'f128c512': F128,
}
TINY = {
  'sana': shapes(
    4,
    (8, 16, 32),
    (1, 2, 1),
    (2, 1, 1),
    kinds='rrv',
    scales=(5,),
    strided=True,
    interpolated=True,
  ),
  'lite': shapes(
    4,
    (8, 16, 32),
    (1, 2, 1),
    (0, 2, 1),
    kinds='rrv',
    scales=(5,),
    decoder_kinds='rrr',
    strided=True,
  ),
  'in': shapes(
    4, (8, 16, 32), (0, 2, 1), (0, 1, 1), kinds='rrv', batch=[True, True, False]
  ),
  'strided, no first stage': shapes(
    4,
    (8, 16, 32),
    (0, 2, 1),
    (0, 1, 1),
    kinds='rrv',
    scales=(3, 5),
    batch=[False, False, True],
    strided=True,
    interpolated=True,
  ),
}


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
  """A tiny model's tensors, and what diffusers' config says of it."""
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
def test_published_models_arrive_whole(name, tensors, parameters):
  named = efficientvit.to_diffusers(unread(PUBLISHED[name]))
  assert len(named) == tensors
  assert parameters == sum(
    math.prod(t.shape)
    for k, t in named.items()
    if not k.endswith(('mean', 'var', 'tracked'))
  )


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_models_go_back(name):
  there = efficientvit.to_diffusers(unread(PUBLISHED[name]))
  back = efficientvit.from_diffusers(there, CONFIGS.get(name, {}))
  assert {k: t.shape for k, t in back.items()} == PUBLISHED[name]


def test_there_and_back_every_byte_is_the_same(model):
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


def test_each_tensor_comes_to_its_place():
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
def test_other_variants_have_other_places(name, theirs, ours):
  x = np.random.default_rng().normal(size=TINY[name][theirs])
  got = efficientvit.to_diffusers(unread(TINY[name]) | {theirs: stored(x)})
  np.testing.assert_array_equal(got[ours].read(), x, strict=True)


def test_all_that_is_wrong_is_listed_at_once():
  named = dict(TINY['sana'], surplus=(1,))
  named['decoder.stages.0.op_list.0.main.conv2.norm.running_var'] = (8,)
  del named['encoder.stages.0.op_list.0.main.conv1.conv.bias']
  del named['decoder.project_out.op_list.0.bias']
  with pytest.raises(WeightError) as e:
    efficientvit.to_diffusers(unread(named))
  for problem in (
    'encoder.stages.0.op_list.0.main.conv1.conv.bias is missing',
    'decoder.project_out.op_list.0.bias is missing',
    'surplus is unknown',
    'op_list.0.main.conv2.norm.running_mean is missing',
  ):
    assert problem in str(e.value)


def test_what_they_have_no_name_for_is_told():
  named = efficientvit.to_diffusers(unread(TINY['sana']))
  del named['encoder.down_blocks.2.0.attn.to_k.weight']
  named |= unread({'decoder.up_blocks.0.0.shift': (3,)})
  with pytest.raises(
    WeightError, match=(r'(?s)to_k.weight is missing.*\.shift is unknown')
  ):
    efficientvit.from_diffusers(named, STRIDED)


def test_what_is_no_autoencoder_is_told():
  with pytest.raises(
    WeightError,
    match=(r'(?s)norm_out.weight is missing.*proj.weight is unknown'),
  ):
    efficientvit.from_diffusers(unread({'patch_embed.proj.weight': (3,)}), {})


def test_models_without_shortcuts_have_other_names():
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


def test_files_are_told_apart():
  assert efficientvit.knows(unread(SANA))
  assert not efficientvit.knows(efficientvit.to_diffusers(unread(SANA)))
