"""SANA's linear diffusion transformer (arXiv:2410.10629, section 2.2).

  x += gate_a * linear_attention(modulate(norm(x)))
  x += cross_attention(x, text)                 (no norm, no gate)
  x += gate_f * mix_ffn(modulate(norm(x)))

The six modulations are a per-block table plus one projection of the time,
shared by all blocks. There is no position embedding, but for the 2K and 4K
models. It follows diffusers; where the official code differs, a field says so.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.attention import (
  CrossAttention,
  KeysValues,
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
from sana_jax.models.remat import block_input, remat
from sana_jax.sharding.activations import constrain
from sana_jax.typing import Array, Bool, DType, Float, Params

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
    control_after: the block (from 0) that the first of a ControlNet's outputs
      follows: 1 in diffusers, 0 in the official code.
    rounded_timesteps: cast them to `dtype` first, as the official code does
      where there is a ControlNet: 999 is 1000 in bfloat16. Not in diffusers.
    remat: what the backward pass computes again, see remat.py.
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
  control_after: int = 1
  rounded_timesteps: bool = False
  remat: str = 'none'
  unroll: int = 1
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, 'b y x c'],
    timesteps: Float[Array, 'b'],
    text: Float[Array, 'b m e'] | KeysValues,
    mask: Bool[Array, 'b m'] | None = None,
    guidance: Float[Array, 'b'] | None = None,
    control: Float[Array, 'l b p q d'] | None = None,
    perturbed: Bool[Array, 'l b'] | None = None,
  ) -> Float[Array, 'b y x o']:
    """The velocity; timesteps lie in [0, 1000], `mask` is true for words.

    `text` are the text encoder's states, or what `project_text` made of them.

    `control` are a ControlNet's outputs; those beyond the depth are not used.
    `perturbed` says in which blocks whose self-attention is the identity, for
    perturbed-attention guidance.
    """
    x = constrain(
      patch_embedding(self)(latents), 'batch', 'tokens', None, None)
    if self.rounded_timesteps:
      timesteps = timesteps.astype(self.dtype)
    time, modulation = TimeEmbedding(
      self.width, self.guidance_embeds, name='time_embed', dtype=self.dtype,
    )(timesteps, guidance)
    if not isinstance(text, KeysValues):
      text = CaptionProjection(
        self.width, self.text_norm_scale, name='caption', dtype=self.dtype,
      )(text)
    if control is not None:
      control = _pad(
        control.astype(self.dtype), self.control_after, self.depth)
    x, _ = scan_blocks(self, Block, text, control, perturbed)(
      x, modulation, text, attention_bias(mask, text), control, perturbed)
    return Head(
      self.out_channels, self.patch_size, name='head', dtype=self.dtype,
    )(x, time)


def project_text(
  model: Sana, params: Params, text: Float[Array, 'b m e']
) -> KeysValues:
  """Keys and values of every block: all that a Sana makes of the text alone.

  A sampler needs them once for all its steps; the velocity is the same.
  """
  text = CaptionProjection(
    model.width, model.text_norm_scale, dtype=model.dtype,
  ).apply({'params': params['caption']}, text)
  attention = CrossAttention(
    model.cross_heads, model.width // model.cross_heads, model.cross_norm,
    model.cross_norm_eps, dtype=model.dtype)
  # One block after another: as one product, XLA would transpose a copy of all
  # their weights, an eighth of the model.
  return jax.lax.map(lambda block: attention.apply(
    {'params': block}, text, method='keys_values'),
    params['blocks']['cross_attention'])


def patch_embedding(model) -> Callable[[Array], Array]:
  """Latents to tokens; with fixed positions in the 2K and 4K models."""
  patch = (model.patch_size,) * 2
  project = nn.Conv(
    model.width, patch, patch, 'VALID', name='patch_embed', kernel_init=xavier,
    dtype=model.dtype)

  def embed(latents):
    x = project(latents)
    if model.interpolation_scale is None:
      return x
    _, height, width, channels = x.shape
    table = position_embedding(
      height, width, channels, base=model.sample_size // model.patch_size,
      scale=model.interpolation_scale)
    return x + table.reshape(1, height, width, channels).astype(model.dtype)
  return embed


def attention_bias(mask, text) -> Float[Array, 'b m']:
  """-10,000 where the mask is false.

  Finite, as in both references: a mask of all zeros is no mask.
  """
  if mask is None:
    words = text.keys[0] if isinstance(text, KeysValues) else text
    return jnp.zeros(words.shape[:2])
  return (1 - mask.astype(jnp.float32)) * -10_000.


def scan_blocks(model, block, text, control, perturbed) -> nn.Module:
  """The blocks of a Sana or its ControlNet, as one scan over the depth.

  They take x, the modulations, the text and its bias; and each its own keys
  and values, where the text has been projected, its own control and its own
  perturbed examples, where there are any.
  """
  each = lambda own: 0 if own else nn.broadcast
  return nn.scan(
    remat(block, model.remat), variable_axes={'params': 0, 'intermediates': 0},
    split_rngs={'params': True},
    in_axes=(nn.broadcast, each(isinstance(text, KeysValues)), nn.broadcast,
             each(control is not None), each(perturbed is not None)),
    length=model.depth, unroll=model.unroll,
  )(heads=model.width // model.head_dim, head_dim=model.head_dim,
    cross_heads=model.cross_heads, mlp_ratio=model.mlp_ratio,
    qk_norm=model.qk_norm, cross_norm=model.cross_norm,
    use_bias=model.attention_bias, norm_eps=model.norm_eps,
    norm_affine=model.norm_affine, attention_eps=model.attention_eps,
    cross_norm_eps=model.cross_norm_eps, dtype=model.dtype, name='blocks')


def _pad(control, first, depth):
  """A ControlNet's outputs at the blocks that they follow, zero elsewhere."""
  control = control[:depth - first]
  missing = depth - first - control.shape[0]
  return jnp.pad(control, [(first, missing), *[(0, 0)] * (control.ndim - 1)])


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
    text: Float[Array, 'b m d'] | KeysValues,
    bias: Float[Array, 'b m'],
    control: Float[Array, 'b y x d'] | None = None,
    perturbed: Bool[Array, 'b'] | None = None,
  ):
    x = block_input(x)
    width = x.shape[-1]
    table = self.param('scale_shift_table', _table_init, (6, width))
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
      _per_image(m, self.dtype) for m in jnp.moveaxis(
        table + modulation.astype(jnp.float32), 1, 0))

    y = layer_normalise(x, self.norm_eps)
    y = modulate(y, shift_a, scale_a).astype(self.dtype)
    x = x + gate_a * LinearSelfAttention(
      self.heads, self.head_dim, self.qk_norm, self.use_bias,
      self.attention_eps, name='self_attention', dtype=self.dtype,
    )(y, perturbed)
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
    if control is not None:
      x = x + control
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
