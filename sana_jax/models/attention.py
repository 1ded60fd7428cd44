"""SANA's two attentions: linear over the image, softmax over the text."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.kernels import relu_linear_attention
from sana_jax.models.layers import Dense, RMSNorm
from sana_jax.typing import Array, Bool, DType, Float

xavier = nn.initializers.xavier_uniform()


class LinearSelfAttention(nn.Module):
  """ReLU linear attention over all tokens; no position embedding.

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
    self,
    x: Float[Array, 'b n d'],
    perturbed: Bool[Array, 'b'] | None = None,
  ) -> Float[Array, 'b n d']:
    """Attends; `perturbed` examples see only themselves (PAG): out(value)."""

    def project(name):
      return Dense(
        self.heads * self.head_dim,
        use_bias=self.use_bias,
        name=name,
        kernel_init=xavier,
        dtype=self.dtype,
      )(x)

    q, k, v = project('query'), project('key'), project('value')
    if self.qk_norm:
      q = RMSNorm(1e-5, name='query_norm', dtype=self.dtype)(q)
      k = RMSNorm(1e-5, name='key_norm', dtype=self.dtype)(k)
    heads = (*x.shape[:2], self.heads, self.head_dim)
    out = relu_linear_attention(
      q.reshape(heads), k.reshape(heads), v.reshape(heads), eps=self.eps
    )
    out = out.reshape(v.shape)
    if perturbed is not None:
      out = jnp.where(perturbed[:, None, None], v, out)
    out = Dense(x.shape[-1], name='out', kernel_init=xavier, dtype=self.dtype)(
      out
    )
    # float16 alone overflows here; both references clip at its largest value.
    return jnp.clip(out, -65504, 65504) if out.dtype == jnp.float16 else out


class KeysValues(NamedTuple):
  """Keys and values of the text; of all blocks, with an axis l behind b."""

  keys: Float[Array, 'b *l m h k']
  values: Float[Array, 'b *l m h k']


class CrossAttention(nn.Module):
  """Softmax attention of the image on the text, padding masked by a bias."""

  heads: int
  head_dim: int
  qk_norm: bool
  norm_eps: float  # 1e-5 in diffusers, 1e-6 in the official code.
  dtype: DType

  def setup(self):
    size = self.heads * self.head_dim
    dense = lambda: Dense(size, kernel_init=xavier, dtype=self.dtype)
    self.query, self.key, self.value, self.out = (dense() for _ in range(4))
    if self.qk_norm:
      self.query_norm = RMSNorm(self.norm_eps, dtype=self.dtype)
      self.key_norm = RMSNorm(self.norm_eps, dtype=self.dtype)

  def __call__(
    self,
    x: Float[Array, 'b n d'],
    text: Float[Array, 'b m d'] | KeysValues,
    bias: Float[Array, 'b m'],
  ) -> Float[Array, 'b n d']:
    """Attends to the text, or to what `keys_values` made of it."""
    q = self.query(x)
    if self.qk_norm:
      q = self.query_norm(q)
    k, v = text if isinstance(text, KeysValues) else self.keys_values(text)
    q = q.reshape(*x.shape[:2], self.heads, self.head_dim)
    return self.out(softmax_attention(q, k, v, bias).reshape(x.shape))

  def keys_values(self, text: Float[Array, 'b m d']) -> KeysValues:
    """What depends on the text alone: the same in every step of a sampler."""
    k, v = self.key(text), self.value(text)
    if self.qk_norm:
      k = self.key_norm(k)
    heads = (*text.shape[:2], self.heads, self.head_dim)
    return KeysValues(k.reshape(heads), v.reshape(heads))


def softmax_attention(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b m h k'],
  v: Float[Array, 'b m h k'],
  bias: Float[Array, 'b m'],
) -> Float[Array, 'b n h k']:
  """softmax(q k^T / sqrt(head dim) + bias) v, with a float32 softmax."""
  logits = jnp.einsum(
    'bnhk,bmhk->bhnm', q, k, preferred_element_type=jnp.float32
  )
  logits = logits * q.shape[-1] ** -0.5 + bias[:, None, None]
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bhnm,bmhk->bnhk', weights, v)
