"""Parts of the transformer, each with its name in diffusers and its call here.

If the two references disagree on a constant, a part has a row for each, with
weights so small that the constant matters: diffusers', and diffusers' with
NVIDIA's constant.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from diffusers.models import attention_processor
import jax
import numpy as np
import torch

from sana_jax.models import sana as models
from sana_jax.models.block import Block, BlockFields
from sana_jax.models.layers import layer_normalise, RMSNorm
from sana_jax.tools.parity import references
from sana_jax.typing import PyTree

# Model, parameters, inputs of the reference's part, token grid.
Ours = Callable[[models.Sana, PyTree, list[np.ndarray], tuple[int, int]], Any]


_FIRST = 'transformer_blocks.0'


@dataclasses.dataclass(frozen=True)
class Part:
  """A part's name in diffusers, and a call here with the same shapes.

  Attributes:
    variant: variant of its model.
    adjust: changes the reference's values before it runs.
    until: part whose output is compared, if a later one; '' is the model.
  """

  name: str
  ours: Ours
  variant: str = ''
  adjust: Callable[[torch.nn.Module], None] = lambda model: None
  until: str | None = None
  against: str = 'diffusers'


def patches(model, params, given, grid):
  latents = references.channels_last(given[0])
  return _apply(model, params, latents, part='tokens')[0]


def time(model, params, given, grid):
  guidance = given[1] if model.guidance_embeds else None
  vector, modulation = _apply(
    model, params, given[0], guidance, part='time_embed'
  )
  return modulation, vector


def caption(model, params, given, grid):
  return _apply(model, params, given[0], part='caption')


def caption_norm(model, params, given, grid):
  module = RMSNorm(1e-5, dtype=model.dtype)
  return _apply(module, params['caption']['norm'], given[0])


def linear_attention(model, params, given, grid, perturbed=None):
  return _apply(
    _block(model),
    _of_block(params, 0),
    given[0],
    perturbed,
    part='self_attention',
  )


def perturbed_attention(model, params, given, grid):
  """Attention with identity attention for the second half of the images."""
  images = len(given[0])
  return linear_attention(
    model, params, given, grid, np.arange(images) >= images // 2
  )


def cross_attention(model, params, given, grid):
  x, text, bias = given
  return _apply(
    _block(model),
    _of_block(params, 0),
    x,
    text,
    np.float32(bias[:, 0]),
    part='cross_attention',
  )


def mix_ffn(model, params, given, grid):
  y = _apply(
    _block(model),
    _of_block(params, 0),
    _tokens(references.channels_last(given[0])),
    part='mix_ffn',
    grid=grid,
  )
  return references.channels_first(_image(y, grid))


def norm(model, params, given, grid):
  return jax.jit(layer_normalise, static_argnums=1)(given[0], model.norm_eps)


def block(i: int) -> Ours:
  """The i-th block."""

  def ours(model, params, given, grid):
    x, text, bias, modulation = given
    y, _ = _apply(
      _block(model),
      _of_block(params, i),
      x,
      modulation.reshape(len(x), 6, -1),
      text,
      np.float32(bias[:, 0]),
      grid=grid,
    )
    return y

  return ours


def head(model, params, given, grid):
  x, vector, _ = given
  return references.channels_first(
    _apply(model, params, x, vector, part='head', grid=grid)
  )


def with_fields(ours: Ours, **fields: Any) -> Ours:
  """`ours` with changed fields of the model."""
  return lambda model, *rest: ours(model.clone(**fields), *rest)


def small(size: float, *names: str):
  """Scales the outputs of these layers, so that a later eps matters."""

  def adjust(model):
    for name in names:
      for p in model.get_submodule(name).parameters():
        p.data.mul_(size)

  return adjust


def small_queries(attention: str, size: float):
  """Scales the queries and keys of the first block's attention."""
  return small(size, *(f'{_FIRST}.{attention}.to_{x}' for x in 'qk'))


def small_and_eps(size: float, eps: float):
  """Small queries in the cross-attention, with another eps of its norms."""

  def adjust(model):
    small_queries('attn2', size)(model)
    attend = model.transformer_blocks[0].attn2
    attend.norm_q.eps = attend.norm_k.eps = eps

  return adjust


def small_and_eps_in_the_sum(size: float, eps: float):
  """Small queries in the linear attention, whose eps diffusers fixes."""

  def adjust(model):
    small_queries('attn1', size)(model)
    model.transformer_blocks[0].attn1.processor = LinearAttention(eps)

  return adjust


def perturb(model):
  """Perturbed-attention guidance, in the first block."""
  model.transformer_blocks[
    0
  ].attn1.processor = (
    attention_processor.PAGIdentitySanaLinearAttnProcessor2_0()
  )


@dataclasses.dataclass(frozen=True)
class LinearAttention:
  """Attention processor for diffusers with the float64 definition."""

  eps: float

  def __call__(self, attention, x, **_):
    q, k, v = (
      dense(x).unflatten(-1, (attention.heads, -1)).double()
      for dense in (attention.to_q, attention.to_k, attention.to_v)
    )
    q, k = q.relu(), k.relu()
    weights = torch.einsum('bnhk,bmhk->bhnm', q, k)
    weights = weights / (weights.sum(-1, keepdim=True) + self.eps)
    out = torch.einsum('bhnm,bmhk->bnhk', weights, v).flatten(2)
    return attention.to_out[0](out.float())


def _apply(module, params, *args, part='__call__', **static):
  """Applies the module, or its method `part`."""
  method = _calling(part, **static)
  return references.apply(module, {'params': params}, *args, method=method)


@functools.cache
def _calling(part, **static):
  """Cached function per call, the key of its program in `references`."""
  return lambda module, *args: getattr(module, part)(*args, **static)


def _block(model):
  return Block(BlockFields.of(model))


def _of_block(params, i):
  return jax.tree.map(lambda x: x[i], params['blocks'])


def _image(tokens, grid):
  return tokens.reshape(len(tokens), *grid, -1)


def _tokens(x):
  return x.reshape(len(x), -1, x.shape[-1])


PARTS = {
  'patch embedding': Part('patch_embed', patches),
  'patch embedding, positions': Part('patch_embed', patches, 'positions'),
  'patch embedding, patches of 2': Part('patch_embed', patches, 'patches of 2'),
  'time embedding': Part('time_embed', time),
  'time embedding, guidance': Part('time_embed', time, 'guidance'),
  'caption projection and norm': Part(
    'caption_projection', caption, until='caption_norm'
  ),
  'caption norm': Part('caption_norm', caption_norm),
  'caption norm, small states': Part(
    'caption_norm',
    caption_norm,
    adjust=small(1e-2, 'caption_projection.linear_2'),
  ),
  'norm before attention': Part(f'{_FIRST}.norm1', norm),
  'norm before attention, small tokens': Part(
    f'{_FIRST}.norm1', norm, adjust=small(1e-2, 'patch_embed')
  ),
  'linear attention': Part(f'{_FIRST}.attn1', linear_attention),
  'linear attention, QK-norm': Part(
    f'{_FIRST}.attn1', linear_attention, 'QK-norm'
  ),
  'linear attention, biases': Part(
    f'{_FIRST}.attn1', linear_attention, 'affine norm and biases'
  ),
  'linear attention, small queries': Part(
    f'{_FIRST}.attn1', linear_attention, adjust=small_queries('attn1', 1e-7)
  ),
  "linear attention, NVIDIA's eps": Part(
    f'{_FIRST}.attn1',
    with_fields(linear_attention, attention_eps=1e-8),
    adjust=small_and_eps_in_the_sum(1e-4, 1e-8),
    against='closed form',
  ),
  'linear attention, half of the images perturbed': Part(
    f'{_FIRST}.attn1', perturbed_attention, adjust=perturb
  ),
  'cross-attention': Part(f'{_FIRST}.attn2', cross_attention),
  'cross-attention, QK-norm': Part(
    f'{_FIRST}.attn2', cross_attention, 'QK-norm'
  ),
  'cross-attention, QK-norm, small queries': Part(
    f'{_FIRST}.attn2', cross_attention, 'QK-norm', small_queries('attn2', 1e-2)
  ),
  "cross-attention, NVIDIA's norm eps": Part(
    f'{_FIRST}.attn2',
    with_fields(cross_attention, cross_norm_eps=1e-6),
    'QK-norm',
    small_and_eps(1e-2, 1e-6),
  ),
  'Mix-FFN': Part(f'{_FIRST}.ff', mix_ffn),
  'Mix-FFN, ratio 3': Part(f'{_FIRST}.ff', mix_ffn, 'other widths'),
  'first block': Part(_FIRST, block(0)),
  'last block': Part('transformer_blocks.2', block(2)),
  'last block, QK-norm': Part('transformer_blocks.2', block(2), 'QK-norm'),
  'last block, affine norm and biases': Part(
    'transformer_blocks.2', block(2), 'affine norm and biases'
  ),
  'head': Part('norm_out', head, until=''),
  'head, patches of 2': Part('norm_out', head, 'patches of 2', until=''),
}
