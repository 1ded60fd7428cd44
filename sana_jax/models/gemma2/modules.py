"""Parts of Gemma-2: rotary positions, masks, attention, one layer.

Formulas as in "Gemma 2" (arXiv 2408.00118) and transformers' Gemma2Model.
Attention logits and rotations stay in float32 where transformers rounds them
to the model's dtype, which is closer to its float32 result and no slower.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.models.layers import RMSNorm
from sana_jax.sharding.activations import constrain
from sana_jax.typing import Array, Bool, DType, Float

_INIT = nn.initializers.normal(0.02)


def rotary_tables(
  length: int, head_dim: int, theta: float, before: int = 0
) -> tuple[Float[Array, 'm i'], Float[Array, 'm i']]:
  """Cosines and sines of position x theta^(-2i/head_dim), i < head_dim / 2.

  Positions start at `before`.
  """
  # Rounded step by step, as in transformers: at position 4,000 one ulp of an
  # angle is 2e-4, which is visible.
  exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
  frequencies = np.float32(1) / np.float32(
    theta ** exponents.astype(np.float64)
  )
  positions = np.arange(before, before + length, dtype=np.float32)
  angles = jnp.asarray(positions[:, None] * frequencies)
  return jnp.cos(angles), jnp.sin(angles)


def rotate(
  x: Float[Array, 'b m h k'],
  cos: Float[Array, 'm k//2'],
  sin: Float[Array, 'm k//2'],
) -> Float[Array, 'b m h k']:
  """Rotates the pair (x_i, x_{i+k/2}) of a head by its position's angle."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos[:, None], sin[:, None]
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def soft_cap(x: Float[Array, '*b'], cap: float) -> Float[Array, '*b']:
  """Soft cap, cap * tanh(x / cap): the identity near 0, bounded by the cap."""
  return cap * jnp.tanh(x / cap)


def causal_mask(
  mask: Bool[Array, 'b m'], before: int = 0
) -> Bool[Array, 'b m {before}+m']:
  """Mask of keys j visible to query i: real tokens that are not after i.

  All `before` prefix tokens are real and visible to every query.
  """
  b, m = mask.shape
  real = jnp.concatenate([jnp.ones((b, before), bool), mask], axis=1)
  return real[:, None, :] & jnp.tri(m, before + m, before, dtype=bool)


def near_mask(
  length: int, window: int, before: int = 0
) -> Bool[Array, 'm {before}+m']:
  """Mask of keys j in the sliding window of query i: j > i - window."""
  i = before + jnp.arange(length)
  return jnp.arange(before + length)[None, :] > i[:, None] - window


class Past(NamedTuple):
  """Keys and values of the prefix, for one layer or for all."""

  keys: Float[Array, '*l b s g k']
  values: Float[Array, '*l b s g k']


def attention(
  q: Float[Array, 'b m h k'],
  k: Float[Array, 'b s g k'],
  v: Float[Array, 'b s g k'],
  allowed: Bool[Array, 'b m s'],
  *,
  scale: float,
  softcap: float,
) -> Float[Array, 'b m h k']:
  """Attention, softmax(soft_cap(q k^T scale)) v; h/g query heads per key head.

  A query without visible keys gets the mean of v, as in transformers: finite,
  and unused.
  """
  grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
  logits = scale * jnp.einsum(
    'bqgrk,bsgk->bgrqs', grouped, k, preferred_element_type=jnp.float32
  )
  logits = jnp.where(
    allowed[:, None, None],
    soft_cap(logits, softcap),
    jnp.finfo(jnp.float32).min,
  )
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bgrqs,bsgk->bqgrk', weights, v).reshape(q.shape)


class Layer(nn.Module):
  """Body of the scan: attention and gated MLP, each between two norms."""

  heads: int
  kv_heads: int
  head_dim: int
  hidden: int
  query_scale: int
  softcap: float
  eps: float
  dtype: DType

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b m d'],
    sliding: Bool[Array, ''],
    past: Past | None,
    shared: tuple,
    keep: str,
  ):
    """Returns x after the layer, and the scan's output for it.

    Args:
      x: residual stream.
      sliding: whether this layer attends only within the sliding window.
      past: its keys and values of the prefix.
      shared: inputs shared by all layers: causal and near masks, cos, sin.
      keep: 'states' for every layer's x, 'past' for its keys and values, or ''.
    """
    causal, near, cos, sin = shared
    allowed = causal & (near | ~sliding)
    y, made = self._attention(
      self._norm('attention_norm')(x), allowed, cos, sin, past
    )
    x = x + self._norm('post_attention_norm')(y)
    x = x + self._norm('post_mlp_norm')(self._mlp(self._norm('mlp_norm')(x)))
    x = constrain(x, 'batch', None, None)
    return x, {'states': x, 'past': made, '': None}[keep]

  def _attention(self, x, allowed, cos, sin, past):
    def project(name, heads):
      y = self._dense(name, heads * self.head_dim)(x)
      return y.reshape(*x.shape[:2], heads, self.head_dim)

    q = rotate(project('query', self.heads), cos, sin)
    k = rotate(project('key', self.kv_heads), cos, sin)
    v = project('value', self.kv_heads)
    made = Past(k, v)
    if past is not None:
      k, v = jax.tree.map(_append, made, past)
    y = attention(
      q, k, v, allowed, scale=self.query_scale**-0.5, softcap=self.softcap
    )
    return self._dense('out', x.shape[-1])(y.reshape(*x.shape[:2], -1)), made

  def _mlp(self, x):
    gate = jax.nn.gelu(self._dense('gate', self.hidden)(x), approximate=True)
    up = self._dense('up', self.hidden)(x)
    return self._dense('down', x.shape[-1])(gate * up)

  def _norm(self, name):
    return RMSNorm(self.eps, offset=1.0, dtype=self.dtype, name=name)

  def _dense(self, name, features):
    return nn.Dense(
      features, use_bias=False, dtype=self.dtype, kernel_init=_INIT, name=name
    )


def _append(new, past):
  """Appends new keys or values to the prefix's, which all examples share."""
  past = jnp.broadcast_to(past, (new.shape[0], *past.shape[1:]))
  return jnp.concatenate([past.astype(new.dtype), new], axis=1)
