"""SANA's linear diffusion transformer (arXiv:2410.10629, section 2.2).

  x += gate_a * linear_attention(modulate(norm(x)))
  x += cross_attention(x, text)                 (no norm, no gate)
  x += gate_f * mix_ffn(modulate(norm(x)))

The six modulations are a per-block table plus one projection of the time,
shared by all blocks. There is no position embedding, but for the 2K and 4K
models. It follows diffusers; where the official code differs, a field says so.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.attention import (
  CrossAttention,
  LinearSelfAttention,
  xavier,
)
from sana_jax.models.layers import (
  layer_normalise,
  modulate,
  position_embedding,
  RMSNorm,
  sinusoidal_embedding,
)
from sana_jax.models.mix_ffn import MixFFN
from sana_jax.sharding.activations import constrain
from sana_jax.typing import Array, Bool, DType, Float

normal = nn.initializers.normal(0.02)


class Sana(nn.Module):
  """Velocity of the flow at a noisy latent, a time and a text.

  Attributes:
    width, depth: 1152 x 28 (0.6B), 2240 x 20 (1.6B), 2240 x 60 (4.8B).
    head_dim: of the linear attention, 32; its heads are width / head_dim.
    cross_heads: of the attention on the text.
    caption_channels: width of the text encoder.
    qk_norm, cross_norm: RMSNorm on queries and keys (SANA-1.5, Sprint).
    guidance_embeds: an embedding of the guidance scale is added to the time's
      (Sprint); the scale is multiplied by `guidance_embeds_scale` by callers.
    timestep_scale: callers multiply timesteps by it (Sprint teachers: 0.001).
    sample_size: latent side that `interpolation_scale` refers to.
    interpolation_scale: None for no position embedding (512 and 1024 px).
    attention_eps: 1e-15 in diffusers, 1e-8 in the official code.
    cross_norm_eps: 1e-5 in diffusers, 1e-6 in the official code.
    text_norm_scale: initial scale of the caption norm.
    remat: recompute each block in the backward pass.
    unroll: blocks per iteration of the scan; `depth` unrolls it all.
  """

  width: int
  depth: int
  cross_heads: int
  head_dim: int = 32
  in_channels: int = 32
  out_channels: int = 32
  caption_channels: int = 2304
  mlp_ratio: float = 2.5
  patch_size: int = 1
  qk_norm: bool = False
  cross_norm: bool = False
  attention_bias: bool = False
  norm_eps: float = 1e-6
  norm_affine: bool = False
  guidance_embeds: bool = False
  guidance_embeds_scale: float = 0.1
  timestep_scale: float = 1.0
  sample_size: int = 32
  interpolation_scale: float | None = None
  attention_eps: float = 1e-15
  cross_norm_eps: float = 1e-5
  text_norm_scale: float = 0.01
  remat: bool = False
  unroll: int = 1
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, 'b y x c'],
    timesteps: Float[Array, 'b'],
    text: Float[Array, 'b m e'],
    mask: Bool[Array, 'b m'] | None = None,
    guidance: Float[Array, 'b'] | None = None,
  ) -> Float[Array, 'b y x o']:
    """The velocity; timesteps lie in [0, 1000], `mask` is true for words."""
    x = constrain(self._embed_latents(latents), 'batch', 'tokens', None, None)
    time, modulation = TimeEmbedding(
      self.width, self.guidance_embeds, name='time_embed', dtype=self.dtype,
    )(timesteps, guidance)
    text = CaptionProjection(
      self.width, self.text_norm_scale, name='caption', dtype=self.dtype)(text)
    # Finite, as in both references: a mask of all zeros is no mask.
    bias = jnp.zeros(text.shape[:2]) if mask is None else (
      (1 - mask.astype(jnp.float32)) * -10_000.)
    x, _ = self._blocks()(x, modulation, text, bias)
    return Head(
      self.out_channels, self.patch_size, name='head', dtype=self.dtype,
    )(x, time)

  def _embed_latents(self, latents):
    patch = (self.patch_size,) * 2
    x = nn.Conv(
      self.width, patch, patch, 'VALID', name='patch_embed',
      kernel_init=xavier, dtype=self.dtype)(latents)
    if self.interpolation_scale is not None:
      _, height, width, channels = x.shape
      table = position_embedding(
        height, width, channels, base=self.sample_size // self.patch_size,
        scale=self.interpolation_scale)
      x = x + table.reshape(1, height, width, channels).astype(self.dtype)
    return x

  def _blocks(self):
    block = nn.remat(Block, prevent_cse=False) if self.remat else Block
    return nn.scan(
      block, variable_axes={'params': 0, 'intermediates': 0},
      split_rngs={'params': True}, in_axes=(nn.broadcast,) * 3,
      length=self.depth, unroll=self.unroll,
    )(heads=self.width // self.head_dim, head_dim=self.head_dim,
      cross_heads=self.cross_heads, mlp_ratio=self.mlp_ratio,
      qk_norm=self.qk_norm, cross_norm=self.cross_norm,
      use_bias=self.attention_bias, norm_eps=self.norm_eps,
      norm_affine=self.norm_affine, attention_eps=self.attention_eps,
      cross_norm_eps=self.cross_norm_eps, dtype=self.dtype, name='blocks')


class Block(nn.Module):
  """One block, as the body of a scan: returns (x, None)."""

  heads: int
  head_dim: int
  cross_heads: int
  mlp_ratio: float
  qk_norm: bool
  cross_norm: bool
  use_bias: bool
  norm_eps: float
  norm_affine: bool
  attention_eps: float
  cross_norm_eps: float
  dtype: DType

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b y x d'],
    modulation: Float[Array, 'b 6 d'],
    text: Float[Array, 'b m d'],
    bias: Float[Array, 'b m'],
  ):
    width = x.shape[-1]
    table = self.param('scale_shift_table', _table_init, (6, width))
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
      _per_image(m, self.dtype) for m in jnp.moveaxis(
        table + modulation.astype(jnp.float32), 1, 0))

    y = layer_normalise(x, self.norm_eps)
    y = modulate(y, shift_a, scale_a).astype(self.dtype)
    x = x + gate_a * LinearSelfAttention(
      self.heads, self.head_dim, self.qk_norm, self.use_bias,
      self.attention_eps, name='self_attention', dtype=self.dtype)(y)
    x = x + CrossAttention(
      self.cross_heads, width // self.cross_heads, self.cross_norm,
      self.cross_norm_eps, name='cross_attention', dtype=self.dtype,
    )(x, text, bias)
    y = layer_normalise(x, self.norm_eps)
    if self.norm_affine:
      y = Affine(name='norm_ffn')(y)
    y = modulate(y, shift_f, scale_f).astype(self.dtype)
    x = x + gate_f * MixFFN(
      self.mlp_ratio, name='mix_ffn', dtype=self.dtype)(y)
    x = constrain(x, 'batch', 'tokens', None, None)
    self.sow('intermediates', 'block', x)
    return x, None


class Affine(nn.Module):
  """A learned scale and bias after a normalisation."""

  @nn.compact
  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    return x * scale + self.param('bias', nn.initializers.zeros, x.shape[-1:])


class TimeEmbedding(nn.Module):
  """The time (plus guidance) as a vector, and as six modulations."""

  width: int
  guidance_embeds: bool
  dtype: DType

  @nn.compact
  def __call__(
    self, timesteps: Float[Array, 'b'], guidance: Float[Array, 'b'] | None
  ) -> tuple[Float[Array, 'b d'], Float[Array, 'b 6 d']]:
    time = TimeMLP(self.width, name='timestep', dtype=self.dtype)(timesteps)
    if self.guidance_embeds:
      if guidance is None:
        raise ValueError('This model needs a guidance scale (guidance_embeds).')
      time = time + TimeMLP(
        self.width, name='guidance', dtype=self.dtype)(guidance)
    modulation = nn.Dense(
      6 * self.width, name='modulation', kernel_init=normal, dtype=self.dtype,
    )(nn.silu(time))
    return time, modulation.reshape(-1, 6, self.width)


class TimeMLP(nn.Module):
  """Sinusoids of 256 through two layers."""

  width: int
  dtype: DType

  @nn.compact
  def __call__(self, t: Float[Array, 'b']) -> Float[Array, 'b d']:
    dense = lambda name: nn.Dense(
      self.width, name=name, kernel_init=normal, dtype=self.dtype)
    return dense('linear2')(nn.silu(dense('linear1')(sinusoidal_embedding(t))))


class CaptionProjection(nn.Module):
  """The text encoder's states at the transformer's width, normalised."""

  width: int
  norm_scale: float
  dtype: DType

  @nn.compact
  def __call__(self, text: Float[Array, 'b m e']) -> Float[Array, 'b m d']:
    dense = lambda name: nn.Dense(
      self.width, name=name, kernel_init=normal, dtype=self.dtype)
    y = dense('linear2')(nn.gelu(dense('linear1')(text), approximate=True))
    return RMSNorm(
      1e-5, scale_init=self.norm_scale, name='norm', dtype=self.dtype)(y)


class Head(nn.Module):
  """Modulated norm, projection and unpatchify; channels vary fastest."""

  out_channels: int
  patch_size: int
  dtype: DType

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x d'], time: Float[Array, 'b d']
  ) -> Float[Array, 'b y2 x2 o']:
    batch, height, width, channels = x.shape
    table = self.param('scale_shift_table', _table_init, (2, channels))
    shift, scale = (
      _per_image(m, self.dtype) for m in jnp.moveaxis(
        table + time.astype(jnp.float32)[:, None], 1, 0))
    y = modulate(layer_normalise(x, 1e-6), shift, scale).astype(self.dtype)
    p = self.patch_size
    y = nn.Dense(
      p * p * self.out_channels, name='out', kernel_init=xavier,
      dtype=self.dtype)(y)
    y = y.reshape(batch, height, width, p, p, self.out_channels)
    y = jnp.swapaxes(y, 2, 3)  # b y p x p c
    return y.reshape(batch, height * p, width * p, self.out_channels)


def _table_init(key, shape, dtype=jnp.float32):
  return jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5


def _per_image(modulation, dtype):
  """[b d], to be broadcast over positions."""
  return modulation.astype(dtype)[:, None, None]
