"""Conversion of mit-han-lab's names for the DC-AE (repository efficientvit).

  encoder.stages.3.op_list.0.context_module.main.qkv.conv.weight
    <->  encoder.down_blocks.3.0.attn.{to_q,to_k,to_v}.weight

Projections of the attention are 1x1 convolutions there and matrices in
diffusers. The kinds of layers are inferred from the names, so that every
published variant is covered, separately for encoder and decoder. (diffusers'
own converter mistakes the lite decoder, which has no first stage while its
encoder has one, for another variant, and makes a model that cannot be loaded.)
"""

from collections.abc import Mapping
import re
from typing import Any

from sana_jax.weights import renaming
from sana_jax.weights.renaming import layer, Row
from sana_jax.weights.tensors import Stored

_OFFICIAL = re.compile(r'(?P<side>en|de)coder\.stages\.(\d+)\.op_list\.(\d+)\.')
_DIFFUSERS = re.compile(
  r'(?P<side>en|de)coder\.(?:down|up)_blocks\.(\d+)\.(\d+)\.'
)


def _statistics(official, diffusers):
  return [
    Row(f'{official}.{name}', (f'{diffusers}.{name}',))
    for name in ('running_mean', 'running_var', 'num_batches_tracked')
  ]


# Kinds of layers: a block has all tensors of a kind, or none.
_RES = (
  *layer('main.conv1.conv', 'conv1'),
  *layer('main.conv2.conv', 'conv2', bias=False),
  *layer('main.conv2.norm', 'norm'),
)
_ATTENTION, _FFN = 'context_module.main', 'local_module.main'
_VIT = (
  Row(
    f'{_ATTENTION}.qkv.conv.weight',
    tuple(f'attn.to_{x}.weight' for x in 'qkv'),
    pointwise=True,
  ),
  Row(
    f'{_ATTENTION}.proj.conv.weight', ('attn.to_out.weight',), pointwise=True
  ),
  *layer(f'{_ATTENTION}.proj.norm', 'attn.norm_out'),
  *layer(f'{_FFN}.inverted_conv.conv', 'conv_out.conv_inverted'),
  *layer(f'{_FFN}.depth_conv.conv', 'conv_out.conv_depth'),
  *layer(f'{_FFN}.point_conv.conv', 'conv_out.conv_point', bias=False),
  *layer(f'{_FFN}.point_conv.norm', 'conv_out.norm'),
)
_SCALES = tuple(
  tuple(
    Row(
      f'{_ATTENTION}.aggreg.{i}.{j}.weight',
      (f'attn.to_qkv_multiscale.{i}.{name}.weight',),
    )
    for j, name in enumerate(('proj_in', 'proj_out'))
  )
  for i in range(4)
)
_BLOCKS = (
  _RES,
  _statistics('main.conv2.norm', 'norm'),
  _VIT,
  _statistics(f'{_ATTENTION}.proj.norm', 'attn.norm_out'),
  *_SCALES,
)
# Layers between stages: a convolution with stride 2, or one in a layer that
# moves pixels to channels or back.
_STRIDED = layer('main.conv', 'conv')
_SHUFFLED = layer('main.conv.conv', 'conv')


def matches(tensors: Mapping[str, Stored]) -> bool:
  """Whether these are a DC-AE's tensors with mit-han-lab's names."""
  return any(_OFFICIAL.match(name) for name in tensors)


def to_diffusers(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
  """The same tensors with diffusers' names.

  Raises:
    WeightError: lists missing and unknown names, and invalid shapes.
  """
  rows = _ends(
    empty=not any(n.startswith('encoder.stages.0.') for n in tensors),
    strided='encoder.project_in.conv.weight' in tensors,
    shuffled=f'{_LAST}.conv.weight' in tensors,
    out_shortcut='encoder.project_out.op_list.0.conv.weight' not in tensors,
    in_shortcut='decoder.project_in.conv.weight' not in tensors,
  )
  for official, diffusers in _prefixes(_OFFICIAL, tensors):
    kinds = [*_BLOCKS, _SHUFFLED, *([_STRIDED] if official[0] == 'e' else [])]
    rows += [
      row.under(official, diffusers)
      for kind in kinds
      for row in kind
      if any(official + r.official in tensors for r in kind)
    ]
  what = "The DC-AE by mit-han-lab's names"
  renaming.check(what, [row.official for row in rows], tensors)
  return renaming.to_diffusers(what, rows, tensors)


def from_diffusers(
  tensors: Mapping[str, Stored], config: Mapping[str, Any]
) -> dict[str, Stored]:
  """Inverse of `to_diffusers`; the resampling is given by diffusers' config."""
  option = lambda key, default: config.get(key, default)
  strided = option('downsample_block_type', 'pixel_unshuffle') != (
    'pixel_unshuffle'
  )
  empty = 'encoder.conv_in.conv.weight' in tensors
  rows = _ends(
    empty=empty,
    strided=strided or not empty,
    shuffled='decoder.conv_out.conv.weight' in tensors,
    out_shortcut=option('encoder_out_shortcut', True),
    in_shortcut=option('decoder_in_shortcut', True),
  )
  for official, diffusers in _prefixes(_DIFFUSERS, tensors):
    between = _STRIDED if strided and official[0] == 'e' else _SHUFFLED
    rows += [
      row.under(official, diffusers)
      for kind in (*_BLOCKS, between)
      for row in kind
      if any(diffusers + name in tensors for r in kind for name in r.diffusers)
    ]
  what = "The DC-AE by diffusers' names"
  renaming.check(
    what, [name for row in rows for name in row.diffusers], tensors
  )
  return renaming.to_official(what, rows, tensors)


_LAST = 'decoder.project_out.op_list.2.conv'


def _ends(*, empty, strided, shuffled, out_shortcut, in_shortcut):
  """First and last layers, which differ between models.

  Args:
    empty: the encoder has no first stage, and begins by downsampling.
    strided: the encoder begins with a plain convolution.
    shuffled: the decoder has no first stage, and ends by upsampling.
    out_shortcut, in_shortcut: shortcuts around the layers at the latents.
  """
  around = lambda shortcut: 'main.' if shortcut else ''
  return [
    *layer(
      'encoder.project_in.conv' + '.conv' * (not strided),
      'encoder.conv_in' + '.conv' * empty,
    ),
    *layer(
      f'encoder.project_out.{around(out_shortcut)}op_list.0.conv',
      'encoder.conv_out',
    ),
    *layer(f'decoder.project_in.{around(in_shortcut)}conv', 'decoder.conv_in'),
    *layer('decoder.project_out.op_list.0', 'decoder.norm_out'),
    *layer(_LAST + '.conv' * shuffled, 'decoder.conv_out' + '.conv' * shuffled),
  ]


def _prefixes(pattern, names):
  """Both prefixes of each existing block."""
  found = {m.groups(): None for n in names if (m := pattern.match(n))}
  return [
    (
      f'{side}coder.stages.{s}.op_list.{b}.',
      f'{side}coder.{"down" if side == "en" else "up"}_blocks.{s}.{b}.',
    )
    for side, s, b in found
  ]
