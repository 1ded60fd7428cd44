"""SANA's ControlNet: a copy of the first blocks that reads a control image.

  x = start + input(embed(control latents))
  output_k = output layer k (x after block k) * scale

In diffusers, which this follows, `start` is embed(latents), and the transformer
adds output k after its block k + 1. In the official code the ControlNet runs
beside the transformer: `start` is the transformer's x after its block 0
(`first_block`), output k is added after block k (`Sana.control_after` 0), and
times are rounded to the models' dtype (`rounded_timesteps` of both). The
published weights were trained in the official way. The layers `input` and
`output` are zero at first, so that training starts from the transformer alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.sana import (
  attention_bias,
  Block,
  CaptionProjection,
  patch_embedding,
  Sana,
  scan_blocks,
  TimeEmbedding,
)
from sana_jax.sharding.activations import constrain
from sana_jax.typing import Array, Bool, DType, Float, Params


class SanaControlNet(nn.Module):
  """Outputs for a Sana's blocks, from a control image's latents.

  The fields are those of `Sana`; 7 blocks are published.
  """

  width: int
  depth: int
  cross_heads: int
  head_dim: int = 32
  in_channels: int = 32
  caption_channels: int = 2304
  mlp_ratio: float = 2.5
  patch_size: int = 1
  qk_norm: bool = False
  cross_norm: bool = False
  attention_bias: bool = False
  norm_eps: float = 1e-6
  norm_affine: bool = False
  sample_size: int = 32
  interpolation_scale: float | None = None
  attention_eps: float = 1e-15
  cross_norm_eps: float = 1e-5
  text_norm_scale: float = 0.01
  rounded_timesteps: bool = False
  remat: str = 'none'
  unroll: int = 1
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, 'b y x c'],
    timesteps: Float[Array, 'b'],
    text: Float[Array, 'b m e'],
    control: Float[Array, 'b y x c'],
    mask: Bool[Array, 'b m'] | None = None,
    scale: float | Float[Array, ''] = 1.0,
    start: Float[Array, 'b p q d'] | None = None,
  ) -> Float[Array, 'l b p q d']:
    """One output a block; `control` are scaled latents, as `latents` are."""
    embed = patch_embedding(self)
    x = embed(latents) if start is None else start.astype(self.dtype)
    x = x + nn.Dense(
      self.width, name='input', kernel_init=nn.initializers.zeros,
      dtype=self.dtype)(embed(control))
    x = constrain(x, 'batch', 'tokens', None, None)
    if self.rounded_timesteps:
      timesteps = timesteps.astype(self.dtype)
    _, modulation = TimeEmbedding(
      self.width, False, name='time_embed', dtype=self.dtype)(timesteps, None)
    text = CaptionProjection(
      self.width, self.text_norm_scale, name='caption', dtype=self.dtype)(text)
    _, outputs = scan_blocks(self, ControlBlock, text, None, None)(
      x, modulation, text, attention_bias(mask, text), None, None)
    return (outputs * scale).astype(self.dtype)


class ControlBlock(Block):
  """A block whose x also goes to the transformer, through a layer."""

  @nn.compact
  def __call__(
    self, x, modulation, text, bias, control=None, perturbed=None
  ):
    x, _ = super().__call__(
      x, modulation, text, bias, control, perturbed)
    return x, nn.Dense(
      x.shape[-1], name='output', kernel_init=nn.initializers.zeros,
      dtype=self.dtype)(x)


def first_block(
  model: Sana,
  params: Params,
  latents: Float[Array, 'b y x c'],
  timesteps: Float[Array, 'b'],
  text: Float[Array, 'b m e'],
  mask: Bool[Array, 'b m'] | None = None,
) -> Float[Array, 'b p q d']:
  """The transformer's x after its block 0: `start`, in the official way."""
  blocks = jax.tree.map(lambda stack: stack[:1], params['blocks'])
  _, seen = model.clone(depth=1, unroll=1).apply(
    {'params': {**params, 'blocks': blocks}}, latents, timesteps, text, mask,
    mutable='intermediates')
  return seen['intermediates']['blocks']['block'][0][0]
