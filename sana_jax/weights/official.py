"""Conversion between NVIDIA's and diffusers' names of Sana and its ControlNet.

  x_embedder.proj.weight     <->  patch_embed.proj.weight
  blocks.0.attn.qkv.weight   <->  transformer_blocks.0.attn1.to_{q,k,v}.weight
  controlnet.0.copied_block. <->  transformer_blocks.0. of the ControlNet

A file with a ControlNet also contains its base model, with shared embeddings
only once. Sprint's log-variance head, which only training uses, does not exist
in diffusers; it keeps its tensors, which diffusers ignores. Dropped in both
directions, as in diffusers' converters, are the null caption's embedding, as
NVIDIA's loader has its own, and `pos_embed`, which can be computed.
"""

from collections.abc import Mapping
import math
import re
from typing import Any

import numpy as np

from sana_jax.errors import UserError
from sana_jax.weights import controlnet, renaming
from sana_jax.weights.renaming import layer, Row
from sana_jax.weights.table import WeightError
from sana_jax.weights.tensors import Stored

_DROPPED = (
  'pos_embed',
  'y_embedder.y_embedding',
)
_MOST_LAYERS = 1000  # Bound for absurd numbers in names.
_HEAD_DIM = 32  # Head size of the linear attention in every published model.
# Values that do not follow from tensors, as in diffusers: cross-attention heads
# by width, and the scale of the position embedding by latent size (2K, 4K).
_CROSS_HEADS = {1152: 16, 2240: 20}
_INTERPOLATION = {64: 1.0, 128: 2.0}


def matches(tensors: Mapping[str, Stored]) -> bool:
  """Whether these are a Sana transformer's tensors with NVIDIA's names."""
  return 'x_embedder.proj.weight' in tensors


def to_diffusers(tensors: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
  """Tensors of the 'transformer', and of the 'controlnet' if there is one.

  Raises:
    WeightError: lists missing and unknown names, and invalid shapes.
  """
  tables = {
    'transformer': transformer_rows(
      _layers(r'blocks\.(\d+)\.', tensors) or 1,
      norm=any('attn.q_norm' in name for name in tensors),
      guidance=any(name.startswith('cfg_embedder.') for name in tensors),
      logvar='logvar_linear.weight' in tensors,
    )
  }
  if depth := _layers(r'controlnet\.(\d+)\.', tensors):
    norm = any('.copied_block.attn.q_norm' in name for name in tensors)
    tables['controlnet'] = _controlnet(depth, norm)
  renaming.check(
    'The official file',
    [row.official for rows in tables.values() for row in rows],
    {k: t for k, t in tensors.items() if k not in _DROPPED},
  )
  return {
    part: renaming.to_diffusers('The official file', rows, tensors)
    for part, rows in tables.items()
  }


def from_diffusers(
  parts: Mapping[str, Mapping[str, Stored]],
) -> dict[str, Stored]:
  """Inverse of `to_diffusers`, of a 'transformer' and optional 'controlnet'.

  Raises:
    WeightError: lists missing names, and names without an official one.
    UserError: a ControlNet without its transformer, or with different
      embeddings.
  """
  if 'transformer' not in parts or set(parts) > {'transformer', 'controlnet'}:
    raise UserError(
      'An official file contains a transformer, with or without a ControlNet; '
      f'got {", ".join(parts)}: choose with --part, or give the transformer of '
      'the ControlNet with --base.',
      key='--part',
      value=list(parts),
      allowed=('transformer', 'controlnet'),
    )
  base = parts['transformer']
  out = _part(
    'transformer',
    base,
    transformer_rows(
      _layers(r'transformer_blocks\.(\d+)\.', base) or 1,
      norm=any('.norm_q.' in name for name in base),
      guidance=any('.guidance_embedder.' in name for name in base),
      logvar='logvar.weight' in base,
    ),
  )
  if (control := parts.get('controlnet')) is not None:
    added = _part(
      'controlnet',
      control,
      _controlnet(
        _layers(r'transformer_blocks\.(\d+)\.', control) or 1,
        norm=any('.norm_q.' in name for name in control),
      ),
    )
    if odd := [
      name
      for name in added
      if name in out and not _same(added[name], out[name])
    ]:
      raise UserError(
        f'The ControlNet and the transformer differ in {", ".join(odd)}, which '
        'an official file contains only once: give the transformer of the '
        'ControlNet with --base.',
        key='--base',
        value=odd,
      )
    out |= {name: t for name, t in added.items() if name not in out}
  return out


def _part(part, tensors, rows):
  renaming.check(
    f'The {part}', [n for row in rows for n in row.diffusers], tensors
  )
  return renaming.to_official(f'The {part}', rows, tensors)


def _same(a, b):
  return (
    a.shape == b.shape
    and a.dtype == b.dtype
    and (a.read().tobytes() == b.read().tobytes())
  )


def _layers(pattern, names):
  """Number of layers, one more than the largest index."""
  found = [int(m[1]) for name in names if (m := re.match(pattern, name))]
  return min(max(found, default=-1) + 1, _MOST_LAYERS)


def transformer_rows(depth, *, norm, guidance, logvar):
  """Rows of the transformer's tensors.

  Args:
    norm: whether queries and keys are normalized, in both attentions.
    guidance: whether there is Sprint's embedding of the guidance scale.
    logvar: whether there is its log-variance head.
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
    *(layer('logvar_linear', 'logvar') if logvar else []),
  ]


def _controlnet(depth, norm):
  rows = _embeddings(guidance=False)
  rows += layer('controlnet.0.before_proj', 'input_block')
  for i in range(depth):
    rows += [
      row.under(f'controlnet.{i}.copied_block.', f'transformer_blocks.{i}.')
      for row in _block(norm)
    ]
    rows += layer(f'controlnet.{i}.after_proj', f'controlnet_blocks.{i}')
  return rows


def _embeddings(guidance):
  """Rows that a transformer and its ControlNet share."""
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
    for official, diffusers in (('attn', 'attn1'), ('cross_attn', 'attn2')):
      for x in 'qk':
        out += layer(
          f'{official}.{x}_norm', f'{diffusers}.norm_{x}', bias=False
        )
  return out


def config(
  part: str,
  tensors: Mapping[str, Stored],
  file: Mapping[str, Stored] | None = None,
  cross_heads: int | None = None,
) -> dict[str, Any]:
  """diffusers' config.json, inferred from tensors with diffusers' names.

  The `timestep_scale` of Sprint's teachers, otherwise equal to SANA-1.5, cannot
  be inferred.

  Args:
    part: 'transformer' or 'controlnet'.
    file: the same with NVIDIA's names, whose `pos_embed` determines the size of
      the latents; 32 x 32 without it.
    cross_heads: heads of the cross-attention; defaults exist for the published
      widths.
  """
  shape = {name: t.shape for name, t in tensors.items()}
  width, channels, patch, hidden, captions, out, side = _sizes(
    part, shape, file or {}
  )
  cross_heads = cross_heads or _CROSS_HEADS.get(width)
  if not cross_heads or width % cross_heads or width % _HEAD_DIM:
    raise UserError(
      f'There is no published Sana model of width {width}, so its '
      'heads are unknown; give its config with --like.',
      key='--like',
      value=width,
    )
  norm = 'transformer_blocks.0.attn1.norm_q.weight' in shape
  fields = {
    '_class_name': controlnet.class_name(norm),
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
    return fields | {'wiring': 'official'}
  return (
    fields
    | {
      '_class_name': 'SanaTransformer2DModel',
      'guidance_embeds': 'time_embed.guidance_embedder.linear_1.weight'
      in shape,
      'guidance_embeds_scale': 0.1,
      'qk_norm': 'rms_norm_across_heads' if norm else None,
      'timestep_scale': 1.0,
    }
    | ({'logvar': True} if 'logvar.weight' in shape else {})
  )


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
    raise WeightError(
      f'These tensors are not a Sana {part} ({e}).', key='--part', value=part
    ) from e
  return width, channels, patch, hidden, captions, out, side


def _ratio(hidden, width):
  """A ratio with int(ratio * width) == hidden."""
  ratio = hidden / width
  return (
    ratio
    if int(ratio * width) == hidden
    else float(np.nextafter(ratio, np.inf))
  )
