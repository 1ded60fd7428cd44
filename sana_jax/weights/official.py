"""NVIDIA's names for the Sana transformer and ControlNet, and diffusers'.

  x_embedder.proj.weight     <->  patch_embed.proj.weight
  blocks.0.attn.qkv.weight   <->  transformer_blocks.0.attn1.to_{q,k,v}.weight
  controlnet.0.copied_block. <->  transformer_blocks.0. of the ControlNet

A file with a ControlNet holds its base model as well, and the embeddings that
both use only once. Two things of theirs have no place in diffusers: the null
caption's embedding (their loader brings its own) and Sprint's log-variance head
(for training). `pos_embed` can be computed. All three are dropped on the way in
and left out on the way back, as diffusers' converters do; NVIDIA's loader
misses none of them.
"""

from collections.abc import Mapping
import math
import re
from typing import Any

import numpy as np

from sana_jax.errors import UserError
from sana_jax.weights import renaming
from sana_jax.weights.renaming import layer, Row
from sana_jax.weights.table import WeightError
from sana_jax.weights.tensors import Stored

_DROPPED = (
  'pos_embed',
  'y_embedder.y_embedding',
  'logvar_linear.weight',
  'logvar_linear.bias',
)
_MOST_LAYERS = 1000  # So that a wild number in a name costs nothing.
_HEAD_DIM = 32  # Of the linear attention in every published model.
# What no tensor tells: cross-attention heads by width, and the scale of the
# position embedding by latent size (2K and 4K pixels), as diffusers has them.
_CROSS_HEADS = {1152: 16, 2240: 20}
_INTERPOLATION = {64: 1.0, 128: 2.0}


def knows(tensors: Mapping[str, Stored]) -> bool:
  """Whether these are a Sana transformer's tensors by NVIDIA's names."""
  return 'x_embedder.proj.weight' in tensors


def to_diffusers(tensors: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
  """The 'transformer', and the 'controlnet' if there is one.

  Raises:
    WeightError: lists names that are missing or unknown, and odd shapes.
  """
  tables = {
    'transformer': _transformer(
      _layers(r'blocks\.(\d+)\.', tensors) or 1,
      norm=any('attn.q_norm' in name for name in tensors),
      guidance=any(name.startswith('cfg_embedder.') for name in tensors),
    )
  }
  if depth := _layers(r'controlnet\.(\d+)\.', tensors):
    tables['controlnet'] = _controlnet(depth)
  renaming.check(
    'The official file',
    [row.theirs for rows in tables.values() for row in rows],
    {k: t for k, t in tensors.items() if k not in _DROPPED},
  )
  return {
    part: renaming.to_ours('The official file', rows, tensors)
    for part, rows in tables.items()
  }


def from_diffusers(
  parts: Mapping[str, Mapping[str, Stored]],
) -> dict[str, Stored]:
  """The inverse: a 'transformer', and a 'controlnet' beside it or not.

  Raises:
    WeightError: lists names that NVIDIA has no name for, or that are missing.
    UserError: a ControlNet without its transformer, or with embeddings of its
      own.
  """
  if 'transformer' not in parts or set(parts) > {'transformer', 'controlnet'}:
    raise UserError(
      'An official file holds a transformer, with or without a ControlNet; got '
      f'{", ".join(parts)}: choose with --part, or give the transformer that '
      'the ControlNet is for with --base.'
    )
  base = parts['transformer']
  out = _part(
    'transformer',
    base,
    _transformer(
      _layers(r'transformer_blocks\.(\d+)\.', base) or 1,
      norm=any('.norm_q.' in name for name in base),
      guidance=any('.guidance_embedder.' in name for name in base),
    ),
  )
  if (control := parts.get('controlnet')) is not None:
    added = _part(
      'controlnet',
      control,
      _controlnet(_layers(r'transformer_blocks\.(\d+)\.', control) or 1),
    )
    if odd := [
      name
      for name in added
      if name in out and not _same(added[name], out[name])
    ]:
      raise UserError(
        f'The ControlNet and the transformer differ in {", ".join(odd)}, which '
        'an official file holds only once: give the transformer that the '
        'ControlNet is for with --base.'
      )
    out |= {name: t for name, t in added.items() if name not in out}
  return out


def _part(part, tensors, rows):
  renaming.check(f'The {part}', [n for row in rows for n in row.ours], tensors)
  return renaming.to_theirs(f'The {part}', rows, tensors)


def _same(a, b):
  return (
    a.shape == b.shape
    and a.dtype == b.dtype
    and (a.read().tobytes() == b.read().tobytes())
  )


def _layers(pattern, names):
  """How many layers there are, as if none was missing."""
  found = [int(m[1]) for name in names if (m := re.match(pattern, name))]
  return min(max(found, default=-1) + 1, _MOST_LAYERS)


def _transformer(depth, *, norm, guidance):
  """Names of the transformer's tensors.

  Args:
    norm: with norms of queries and keys, in both attentions.
    guidance: with Sprint's embedding of the guidance scale.
  """
  rows = _embeddings(guidance)
  for i in range(depth):
    rows += [
      row.under(f'blocks.{i}.', f'transformer_blocks.{i}.')
      for row in _block(norm)
    ]
  return [
    *rows,
    Row('final_layer.scale_shift_table', ('scale_shift_table',)),
    *layer('final_layer.linear', 'proj_out'),
  ]


def _controlnet(depth):
  rows = _embeddings(guidance=False)
  rows += layer('controlnet.0.before_proj', 'input_block')
  for i in range(depth):
    rows += [
      row.under(f'controlnet.{i}.copied_block.', f'transformer_blocks.{i}.')
      for row in _block(False)
    ]
    rows += layer(f'controlnet.{i}.after_proj', f'controlnet_blocks.{i}')
  return rows


def _embeddings(guidance):
  """What a transformer and its ControlNet share."""
  time = 'time_embed' if guidance else 'time_embed.emb'
  out = [
    *layer('x_embedder.proj', 'patch_embed.proj'),
    *layer('t_embedder.mlp.0', f'{time}.timestep_embedder.linear_1'),
    *layer('t_embedder.mlp.2', f'{time}.timestep_embedder.linear_2'),
    *layer('t_block.1', 'time_embed.linear'),
    *layer('y_embedder.y_proj.fc1', 'caption_projection.linear_1'),
    *layer('y_embedder.y_proj.fc2', 'caption_projection.linear_2'),
    *layer('attention_y_norm', 'caption_norm', bias=False),
  ]
  if guidance:
    out += layer('cfg_embedder.mlp.0', f'{time}.guidance_embedder.linear_1')
    out += layer('cfg_embedder.mlp.2', f'{time}.guidance_embedder.linear_2')
  return out


def _block(norm):
  out = [
    Row('scale_shift_table', ('scale_shift_table',)),
    *layer('attn.qkv', 'attn1.to_q', 'attn1.to_k', 'attn1.to_v', bias=False),
    *layer('attn.proj', 'attn1.to_out.0'),
    *layer('cross_attn.q_linear', 'attn2.to_q'),
    *layer('cross_attn.kv_linear', 'attn2.to_k', 'attn2.to_v'),
    *layer('cross_attn.proj', 'attn2.to_out.0'),
    *layer('mlp.inverted_conv.conv', 'ff.conv_inverted'),
    *layer('mlp.depth_conv.conv', 'ff.conv_depth'),
    *layer('mlp.point_conv.conv', 'ff.conv_point', bias=False),
  ]
  if norm:
    for theirs, ours in (('attn', 'attn1'), ('cross_attn', 'attn2')):
      for x in 'qk':
        out += layer(f'{theirs}.{x}_norm', f'{ours}.norm_{x}', bias=False)
  return out


def config(
  part: str,
  tensors: Mapping[str, Stored],
  file: Mapping[str, Stored] | None = None,
  cross_heads: int | None = None,
) -> dict[str, Any]:
  """diffusers' config.json, as far as tensors (by diffusers' names) tell it.

  No tensor tells the `timestep_scale` of Sprint's teachers, which are like
  SANA-1.5 otherwise.

  Args:
    part: 'transformer' or 'controlnet'.
    file: the same by NVIDIA's names, whose `pos_embed` tells for which latents
      the model was made; without it, for 32 x 32.
    cross_heads: of the cross-attention; known for the published widths.
  """
  shape = {name: t.shape for name, t in tensors.items()}
  width, channels, patch, hidden, captions, out, side = _sizes(
    part, shape, file or {}
  )
  cross_heads = cross_heads or _CROSS_HEADS.get(width)
  if not cross_heads or width % cross_heads or width % _HEAD_DIM:
    raise UserError(
      f'A Sana model of width {width} is none that was published, so that its '
      'heads are unknown; name its config with --like.'
    )
  fields = {
    '_class_name': 'SanaControlNetModel',
    'in_channels': channels,
    'out_channels': out,
    'num_attention_heads': width // _HEAD_DIM,
    'attention_head_dim': _HEAD_DIM,
    'num_layers': _layers(r'transformer_blocks\.(\d+)\.', tensors),
    'num_cross_attention_heads': cross_heads,
    'cross_attention_head_dim': width // cross_heads,
    'cross_attention_dim': width,
    'caption_channels': captions,
    'mlp_ratio': _ratio(hidden, width),
    'dropout': 0.0,
    'attention_bias': False,
    'sample_size': side,
    'patch_size': patch,
    'norm_elementwise_affine': False,
    'norm_eps': 1e-6,
    'interpolation_scale': _INTERPOLATION.get(side),
  }
  if part == 'controlnet':
    return fields
  norm = 'transformer_blocks.0.attn1.norm_q.weight' in shape
  return fields | {
    '_class_name': 'SanaTransformer2DModel',
    'guidance_embeds': 'time_embed.guidance_embedder.linear_1.weight' in shape,
    'guidance_embeds_scale': 0.1,
    'qk_norm': 'rms_norm_across_heads' if norm else None,
    'timestep_scale': 1.0,
  }


def _sizes(part, shape, file):
  """(width, channels, patch, hidden, captions, out, side) of the model."""
  try:
    width, channels, patch, _ = shape['patch_embed.proj.weight']
    hidden = shape['transformer_blocks.0.ff.conv_inverted.weight'][0] // 2
    captions = shape['caption_projection.linear_1.weight'][1]
    out, side = channels, 32
    if part == 'transformer':
      out = shape['proj_out.weight'][0] // patch**2
    if 'pos_embed' in file:
      side = math.isqrt(file['pos_embed'].shape[-2]) * patch
  except (KeyError, ValueError, IndexError, ZeroDivisionError) as e:
    raise WeightError(f'These tensors are no Sana {part} ({e}).') from e
  return width, channels, patch, hidden, captions, out, side


def _ratio(hidden, width):
  """The ratio that gives int(ratio * width) == hidden."""
  ratio = hidden / width
  return (
    ratio
    if int(ratio * width) == hidden
    else float(np.nextafter(ratio, np.inf))
  )
