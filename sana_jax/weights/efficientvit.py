"""mit-han-lab's names for the DC-AE (their repository efficientvit).

  encoder.stages.3.op_list.0.context_module.main.qkv.conv.weight
    <->  encoder.down_blocks.3.0.attn.{to_q,to_k,to_v}.weight

Projections of the attention are 1x1 convolutions there and matrices in
diffusers. Which kind of layer stands where is read off the names, so that every
published variant is covered. diffusers' own converter takes the lite decoder
(no first stage, beside an encoder that has one) for one of the others and makes
a model that cannot be loaded; here encoder and decoder are looked at by
themselves.
"""

from collections.abc import Mapping
import re
from typing import Any

from sana_jax.weights import renaming
from sana_jax.weights.renaming import layer, Row
from sana_jax.weights.tensors import Stored

_THEIRS = re.compile(r'(?P<side>en|de)coder\.stages\.(\d+)\.op_list\.(\d+)\.')
_OURS = re.compile(r'(?P<side>en|de)coder\.(?:down|up)_blocks\.(\d+)\.(\d+)\.')


def _statistics(theirs, ours):
  return [
    Row(f'{theirs}.{name}', (f'{ours}.{name}',))
    for name in ('running_mean', 'running_var', 'num_batches_tracked')
  ]


# Kinds of layers: all of a kind's tensors are there, or none.
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
# Between stages: a convolution alone (with stride 2), or one in a layer that
# moves pixels to channels or back.
_STRIDED = layer('main.conv', 'conv')
_SHUFFLED = layer('main.conv.conv', 'conv')


def knows(tensors: Mapping[str, Stored]) -> bool:
  """Whether these are a DC-AE's tensors by mit-han-lab's names."""
  return any(_THEIRS.match(name) for name in tensors)


def to_diffusers(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
  """The same model by diffusers' names.

  Raises:
    WeightError: lists names that are missing or unknown, and odd shapes.
  """
  rows = _ends(
    empty=not any(n.startswith('encoder.stages.0.') for n in tensors),
    strided='encoder.project_in.conv.weight' in tensors,
    shuffled=f'{_LAST}.conv.weight' in tensors,
    out_shortcut='encoder.project_out.op_list.0.conv.weight' not in tensors,
    in_shortcut='decoder.project_in.conv.weight' not in tensors,
  )
  for theirs, ours in _prefixes(_THEIRS, tensors):
    kinds = [*_BLOCKS, _SHUFFLED, *([_STRIDED] if theirs[0] == 'e' else [])]
    rows += [
      row.under(theirs, ours)
      for kind in kinds
      for row in kind
      if any(theirs + r.theirs in tensors for r in kind)
    ]
  what = "The DC-AE by mit-han-lab's names"
  renaming.check(what, [row.theirs for row in rows], tensors)
  return renaming.to_ours(what, rows, tensors)


def from_diffusers(
  tensors: Mapping[str, Stored], config: Mapping[str, Any]
) -> dict[str, Stored]:
  """The inverse; how the model resamples is in diffusers' config only."""
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
  for theirs, ours in _prefixes(_OURS, tensors):
    between = _STRIDED if strided and theirs[0] == 'e' else _SHUFFLED
    rows += [
      row.under(theirs, ours)
      for kind in (*_BLOCKS, between)
      for row in kind
      if any(ours + name in tensors for r in kind for name in r.ours)
    ]
  what = "The DC-AE by diffusers' names"
  renaming.check(what, [name for row in rows for name in row.ours], tensors)
  return renaming.to_theirs(what, rows, tensors)


_LAST = 'decoder.project_out.op_list.2.conv'


def _ends(*, empty, strided, shuffled, out_shortcut, in_shortcut):
  """First and last layers, which differ between models.

  Args:
    empty: the encoder has no first stage, and begins by going down.
    strided: it begins with a plain convolution.
    shuffled: the decoder has no first stage, and ends by going up.
    out_shortcut, in_shortcut: around the layers at the latents.
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
  """Both names of each block that is there."""
  found = {m.groups(): None for n in names if (m := pattern.match(n))}
  return [
    (
      f'{side}coder.stages.{s}.op_list.{b}.',
      f'{side}coder.{"down" if side == "en" else "up"}_blocks.{s}.{b}.',
    )
    for side, s, b in found
  ]
