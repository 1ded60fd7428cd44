"""SANA's two attentions: linear over the image, softmax over the text."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.kernels import relu_linear_attention
from sana_jax.models.layers import RMSNorm
from sana_jax.typing import Array, DType, Float

xavier = nn.initializers.xavier_uniform()


class LinearSelfAttention(nn.Module):
  """ReLU linear attention over all positions; no position embedding.

  QK-norm is an RMSNorm over all heads together, before the split (SANA-1.5).
  """

  heads: int
  head_dim: int
  qk_norm: bool
  use_bias: bool
  eps: float
  dtype: DType

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x d']
  ) -> Float[Array, 'b y x d']:
    batch, height, width, channels = x.shape

    def project(name):
      return nn.Dense(
        self.heads * self.head_dim, use_bias=self.use_bias, name=name,
        kernel_init=xavier, dtype=self.dtype)(x)

    q, k, v = project('query'), project('key'), project('value')
    if self.qk_norm:
      q = RMSNorm(1e-5, name='query_norm', dtype=self.dtype)(q)
      k = RMSNorm(1e-5, name='key_norm', dtype=self.dtype)(k)
    tokens = (batch, height * width, self.heads, self.head_dim)
    out = relu_linear_attention(
      q.reshape(tokens), k.reshape(tokens), v.reshape(tokens), eps=self.eps)
    out = out.reshape(batch, height, width, -1)
    out = nn.Dense(
      channels, name='out', kernel_init=xavier, dtype=self.dtype)(out)
    # float16 alone overflows here; both references clip at its largest value.
    return jnp.clip(out, -65504, 65504) if out.dtype == jnp.float16 else out


class CrossAttention(nn.Module):
  """Softmax attention of the image on the text, padding masked by a bias."""

  heads: int
  head_dim: int
  qk_norm: bool
  norm_eps: float  # 1e-5 in diffusers, 1e-6 in the official code.
  dtype: DType

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b y x d'],
    text: Float[Array, 'b m d'],
    bias: Float[Array, 'b m'],
  ) -> Float[Array, 'b y x d']:
    batch, height, width, channels = x.shape

    def project(name, y):
      return nn.Dense(
        self.heads * self.head_dim, name=name, kernel_init=xavier,
        dtype=self.dtype)(y)

    q, k, v = project('query', x), project('key', text), project('value', text)
    if self.qk_norm:
      q = RMSNorm(self.norm_eps, name='query_norm', dtype=self.dtype)(q)
      k = RMSNorm(self.norm_eps, name='key_norm', dtype=self.dtype)(k)
    split = lambda y: y.reshape(batch, -1, self.heads, self.head_dim)
    out = softmax_attention(split(q), split(k), split(v), bias)
    out = out.reshape(batch, height, width, -1)
    return nn.Dense(
      channels, name='out', kernel_init=xavier, dtype=self.dtype)(out)


def softmax_attention(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b m h k'],
  v: Float[Array, 'b m h k'],
  bias: Float[Array, 'b m'],
) -> Float[Array, 'b n h k']:
  """softmax(q k^T / sqrt(head dim) + bias) v, with a float32 softmax."""
  logits = jnp.einsum(
    'bnhk,bmhk->bhnm', q, k, preferred_element_type=jnp.float32)
  logits = logits * q.shape[-1] ** -0.5 + bias[:, None, None]
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bhnm,bmhk->bnhk', weights, v)
