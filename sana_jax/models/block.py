"""SANA's transformer block, and the fields that decide it.

  x += gate_a * linear_attention(modulate(norm(x)))
  x += cross_attention(x, text)                 (no norm, no gate)
  x += gate_f * mix_ffn(modulate(norm(x)))

x are tokens [b n d]; Mix-FFN alone sees the grid on which they lie. The six
modulations are a per-block table plus one projection of the time, shared by all
blocks.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.attention import (
  CrossAttention,
  KeysValues,
  LinearSelfAttention,
)
from sana_jax.models.layers import layer_normalise, modulate
from sana_jax.models.mix_ffn import MixFFN
from sana_jax.models.remat import block_input
from sana_jax.sharding.activations import constrain_tokens
from sana_jax.typing import Array, Bool, DType, Float, Grid


@dataclasses.dataclass(frozen=True)
class BlockFields:
  """Fields of a block; `Backbone` has the same ones and explains them."""

  width: int
  head_dim: int
  cross_heads: int
  mlp_ratio: float
  qk_norm: bool
  cross_norm: bool
  attention_bias: bool
  norm_eps: float
  norm_affine: bool
  attention_eps: float
  cross_norm_eps: float
  dtype: DType

  @classmethod
  def of(cls, model: Any) -> 'BlockFields':
    """The fields of a model's blocks."""
    return cls(
      **{f.name: getattr(model, f.name) for f in dataclasses.fields(cls)}
    )


class Block(nn.Module):
  """One block, as the body of a scan: returns (x, None)."""

  fields: BlockFields

  def setup(self):
    of = self.fields
    self.scale_shift_table = self.param(
      'scale_shift_table', table_init, (6, of.width)
    )
    self.self_attention = LinearSelfAttention(
      of.width // of.head_dim,
      of.head_dim,
      of.qk_norm,
      of.attention_bias,
      of.attention_eps,
      dtype=of.dtype,
    )
    self.cross_attention = CrossAttention(
      of.cross_heads,
      of.width // of.cross_heads,
      of.cross_norm,
      of.cross_norm_eps,
      dtype=of.dtype,
    )
    if of.norm_affine:
      self.norm_ffn = Affine()
    self.mix_ffn = MixFFN(of.mlp_ratio, dtype=of.dtype)

  def __call__(
    self,
    x: Float[Array, 'b n d'],
    modulation: Float[Array, 'b 6 d'],
    text: Float[Array, 'b m d'] | KeysValues,
    bias: Float[Array, 'b m'],
    control: Float[Array, 'b n d'] | None = None,
    perturbed: Bool[Array, 'b'] | None = None,
    *,
    grid: Grid,
  ):
    eps, dtype = self.fields.norm_eps, self.fields.dtype
    x = block_input(x)
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
      per_image(m, dtype)
      for m in jnp.moveaxis(
        self.scale_shift_table + modulation.astype(jnp.float32), 1, 0
      )
    )

    y = layer_normalise(x, eps)
    y = modulate(y, shift_a, scale_a).astype(dtype)
    x = x + gate_a * self.self_attention(y, perturbed)
    x = x + self.cross_attention(x, text, bias)
    y = layer_normalise(x, eps)
    if self.fields.norm_affine:
      y = self.norm_ffn(y)
    y = modulate(y, shift_f, scale_f).astype(dtype)
    x = x + gate_f * self.mix_ffn(y, grid)
    if control is not None:
      x = x + control
    return constrain_tokens(x, grid), None

  def keys_values(self, text: Float[Array, 'b m d']) -> KeysValues:
    """Keys and values of the projected text, for this block."""
    return self.cross_attention.keys_values(text)


class Affine(nn.Module):
  """A learned scale and bias after a normalisation."""

  @nn.compact
  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    return x * scale + self.param('bias', nn.initializers.zeros, x.shape[-1:])


def table_init(key, shape, dtype=jnp.float32):
  """Normal values of variance 1 / width, for a table of modulations."""
  return jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5


def per_image(
  modulation: Float[Array, 'b d'], dtype: DType
) -> Float[Array, 'b 1 d']:
  """A modulation that broadcasts over tokens."""
  return modulation.astype(dtype)[:, None]
