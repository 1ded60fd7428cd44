"""Embeddings and blocks shared by Sana and its ControlNet."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.errors import UserError
from sana_jax.models.attention import KeysValues, xavier
from sana_jax.models.block import Block, BlockFields
from sana_jax.models.embeddings import CaptionProjection, TimeEmbedding
from sana_jax.models.layers import Patches, position_embedding
from sana_jax.models.remat import remat
from sana_jax.typing import Array, Bool, DType, Float, Grid

# Each block has its own parameters, and adapters, if any.
_STACKED = {'params': 0, 'adapters': 0}
Features = tuple[Float[Array, 'b n d'], ...]


class Backbone(nn.Module):
  """Patch embedding, time embedding, text projection and a scan over blocks.

  Attributes:
    width, depth: 1152 x 28 (0.6B), 2240 x 20 (1.6B), 2240 x 60 (4.8B).
    cross_heads: heads of the attention on the text.
    head_dim: size of the width / head_dim heads of the linear attention, 32.
    caption_channels: width of the text encoder.
    qk_norm, cross_norm: RMSNorm on queries and keys (SANA-1.5, Sprint).
    sample_size: latent side that `interpolation_scale` refers to.
    interpolation_scale: None for no position embedding (512 and 1024 px).
    attention_eps: 1e-15 in diffusers, 1e-8 in the official code.
    cross_norm_eps: 1e-5 in diffusers, 1e-6 in the official code.
    text_norm_scale: initial scale of the caption norm.
    rounded_timesteps: cast timesteps to `dtype` first, as the official code
      does with a ControlNet: 999 is 1000 in bfloat16. Not in diffusers.
    remat: activations that the backward pass recomputes, see remat.py.
    unroll: blocks per iteration of the scan; `depth` unrolls it all.
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

  # A class variable.
  block_class = Block
  guidance_embeds = False

  def setup(self):
    patch = (self.patch_size,) * 2
    self.patch_embed = Patches(
      self.width, patch, self.dtype, kernel_init=xavier
    )
    self.time_embed = TimeEmbedding(
      self.width, self.guidance_embeds, dtype=self.dtype
    )
    self.caption = CaptionProjection(
      self.width, self.text_norm_scale, dtype=self.dtype
    )
    self.blocks = self.block_class(BlockFields.of(self))

  def tokens(
    self, latents: Float[Array, 'b y x c']
  ) -> tuple[Float[Array, 'b n d'], Grid]:
    """Embedded patches, row by row, and their number along each axis.

    The 2K and 4K models add a fixed embedding of their positions.
    """
    x = self.patch_embed(latents)
    batch, *grid, width = x.shape
    x = x.reshape(batch, -1, width)
    if self.interpolation_scale is not None:
      table = position_embedding(
        *grid,
        width,
        base=self.sample_size // self.patch_size,
        scale=self.interpolation_scale,
      )
      x = x + table.astype(self.dtype)
    return x, tuple(grid)

  def embed_time(
    self, timesteps: Float[Array, 'b'], guidance: Float[Array, 'b'] | None
  ) -> tuple[Float[Array, 'b d'], Float[Array, 'b 6 d']]:
    """Embeds the time (plus guidance) as a vector, and as six modulations."""
    if self.rounded_timesteps:
      timesteps = timesteps.astype(self.dtype)
    return self.time_embed(timesteps, guidance)

  def project_text(self, text: Float[Array, 'b m e']) -> KeysValues:
    """Keys and values of every block, which depend only on the text.

    A sampler computes them once for all steps; the velocity is the same.
    """
    # Sequential over blocks: for one matmul, XLA would transpose a copy of all
    # their weights, an eighth of the model.
    project = nn.scan(
      lambda block, carry, text: (carry, block.keys_values(text)),
      variable_axes=_STACKED,
      split_rngs={},
      in_axes=nn.broadcast,
      out_axes=1,
      length=self.depth,
    )
    return project(self.blocks, None, self.caption(text))[1]

  def run_blocks(
    self,
    x: Float[Array, 'b n d'],
    grid: Grid,
    modulation: Float[Array, 'b 6 d'],
    text: Float[Array, 'b m e'] | KeysValues,
    mask: Bool[Array, 'b m'] | None,
    control: Float[Array, 'l b n d'] | None = None,
    perturbed: Bool[Array, 'l b'] | None = None,
    features: Sequence[int] = (),
  ) -> tuple[Float[Array, 'b n d'], Features, Any]:
    """Returns x after the last block, x after those of `features`, and outputs.

    The text is the encoder's output, or its projection.
    """
    if not isinstance(text, KeysValues):
      text = self.caption(text)
    kept, slots = _buffer(features, self.depth, x)
    each = lambda own, axis=0: axis if own else nn.broadcast
    run = nn.scan(
      _body(self.remat, grid),
      variable_axes=_STACKED,
      split_rngs={'params': True},
      in_axes=(
        each(features),
        nn.broadcast,
        each(isinstance(text, KeysValues), 1),
        nn.broadcast,
        each(control is not None),
        each(perturbed is not None),
      ),
      length=self.depth,
      unroll=self.unroll,
    )
    (x, kept), outputs = run(
      self.blocks,
      (x, kept),
      slots,
      modulation,
      text,
      attention_bias(mask, text),
      control,
      perturbed,
    )
    return x, tuple(kept[:-1]) if features else (), outputs


def attention_bias(
  mask: Bool[Array, 'b m'] | None, text: Float[Array, 'b m d'] | KeysValues
) -> Float[Array, 'b m']:
  """Bias of -10,000 where the mask is false.

  It is finite, as in both references: an all-zero mask equals no mask.
  """
  if mask is None:
    words = text.keys[:, 0] if isinstance(text, KeysValues) else text
    return jnp.zeros(words.shape[:2])
  return (1 - mask.astype(jnp.float32)) * -10_000.0


def _body(policy: str, grid: Grid) -> Callable:
  """Scan body: runs the block and stores x in the buffer, if there is one."""
  run = remat(lambda block, *args: block(*args, grid=grid), policy)

  def body(block, carry, slot, *args):
    x, kept = carry
    x, output = run(block, x, *args)
    if kept is not None:
      kept = jax.lax.dynamic_update_index_in_dim(kept, x, slot, 0)
    return (x, kept), output

  return body


def _buffer(features, depth, x):
  """Buffer for x after the chosen blocks, and each block's index in it.

  A scan would output x of all blocks. Blocks that are not chosen write to an
  extra last entry.
  """
  if not features:
    return None, None
  if set(features) - set(range(depth)) or len(set(features)) < len(features):
    raise UserError(
      f'features are those of blocks {tuple(features)}; allowed '
      f'are different ones of 0 to {depth - 1}.',
      key='features',
      value=tuple(features),
      allowed=f'different ones of 0 to {depth - 1}',
    )
  slots = np.full(depth, len(features), np.int32)
  slots[list(features)] = range(len(features))
  return jnp.zeros((len(features) + 1, *x.shape), x.dtype), slots
