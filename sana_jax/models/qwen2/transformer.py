"""Qwen2 without a cache: hidden states of a whole sequence, logits of any.

Formulas as in "Qwen2 Technical Report" (arXiv:2407.10671) and transformers'
Qwen2ForCausalLM: grouped queries, biases on queries, keys and values only,
rotary positions, a SiLU gate. The layers are one scan over stacked parameters.
Positions start at 0, and padding is on the right.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.gemma2.modules import causal_mask, rotary_tables, rotate
from sana_jax.models.layers import float32_dot, RMSNorm
from sana_jax.sharding.activations import constrain
from sana_jax.typing import Array, Bool, DType, Float, Int

_INIT = nn.initializers.normal(0.02)
SIZES: Mapping[str, Mapping[str, int | float | bool]] = {
  'qwen2_1.5b': dict(
    vocab_size=151_936,
    width=1536,
    depth=28,
    heads=12,
    kv_heads=2,
    hidden=8960,
    rope_theta=1e6,
    tied=True,
  ),
}


class Qwen2(nn.Module):
  """Causal transformer.

  Attributes:
    hidden: width of the gated MLP.
    tied: logits use the table of the embeddings.
    dtype: dtype of the computation; parameters keep their own.
  """

  vocab_size: int
  width: int
  depth: int
  heads: int
  kv_heads: int
  hidden: int
  rope_theta: float = 10_000.0
  eps: float = 1e-6
  tied: bool = False
  dtype: DType = jnp.float32

  def setup(self):
    self.table = nn.Embed(
      self.vocab_size, self.width, dtype=self.dtype, embedding_init=_INIT
    )
    self.layers = nn.scan(
      Layer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(nn.broadcast,) * 3,
      length=self.depth,
    )(
      heads=self.heads,
      kv_heads=self.kv_heads,
      hidden=self.hidden,
      eps=self.eps,
      dtype=self.dtype,
    )
    self.final_norm = RMSNorm(self.eps, dtype=self.dtype)
    if not self.tied:
      self.head = self.param('head', _INIT, (self.width, self.vocab_size))

  def __call__(
    self, tokens: Int[Array, 'b m'], mask: Bool[Array, 'b m']
  ) -> Float[Array, 'b m v']:
    """Returns logits of the token after each position, in float32."""
    return self.logits(self.states(self.embed(tokens), mask))

  def embed(self, tokens: Int[Array, 'b m']) -> Float[Array, 'b m d']:
    """Embeddings of tokens."""
    return self.table(tokens)

  def states(
    self, x: Float[Array, 'b m d'], mask: Bool[Array, 'b m']
  ) -> Float[Array, 'b m d']:
    """Last hidden states, after the final norm, of embeddings."""
    x = constrain(x.astype(self.dtype), 'batch', None, None)
    rotations = rotary_tables(
      x.shape[1], self.width // self.heads, self.rope_theta
    )
    x, _ = self.layers(x, causal_mask(mask), *rotations)
    return self.final_norm(x)

  def logits(self, states: Float[Array, '*b d']) -> Float[Array, '*b v']:
    """Logits of the next token, in float32."""
    matrix = self.table.embedding.T if self.tied else self.head
    return jnp.matmul(
      states, matrix.astype(self.dtype), preferred_element_type=jnp.float32
    )


class Layer(nn.Module):
  """Body of the scan: attention and a gated MLP, each after a norm."""

  heads: int
  kv_heads: int
  hidden: int
  eps: float
  dtype: DType

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b m d'],
    allowed: Bool[Array, 'b m m'],
    cos: Float[Array, 'm k'],
    sin: Float[Array, 'm k'],
  ):
    """Returns x after the layer, and nothing for the scan to stack."""
    x = x + self._attention(self._norm('attention_norm')(x), allowed, cos, sin)
    x = x + self._mlp(self._norm('mlp_norm')(x))
    return constrain(x, 'batch', None, None), None

  def _attention(self, x, allowed, cos, sin):
    head_dim = x.shape[-1] // self.heads

    def project(name, heads):
      y = self._dense(name, heads * head_dim, use_bias=True)(x)
      return y.astype(self.dtype).reshape(*x.shape[:2], heads, head_dim)

    q = rotate(project('query', self.heads), cos, sin)
    k = rotate(project('key', self.kv_heads), cos, sin)
    y = attention(q, k, project('value', self.kv_heads), allowed)
    y = self._dense('out', x.shape[-1])(y.reshape(x.shape))
    return y.astype(self.dtype)

  def _mlp(self, x):
    # f32 as PyTorch, which rounds only the results.
    gate = nn.silu(self._dense('gate', self.hidden)(x))
    y = (gate * self._dense('up', self.hidden)(x)).astype(self.dtype)
    return self._dense('down', x.shape[-1])(y).astype(self.dtype)

  def _norm(self, name):
    return RMSNorm(self.eps, dtype=self.dtype, name=name)

  def _dense(self, name, features, use_bias=False):
    return nn.Dense(
      features,
      use_bias=use_bias,
      dtype=self.dtype,
      kernel_init=_INIT,
      dot_general=float32_dot,
      name=name,
    )


def attention(
  q: Float[Array, 'b m h k'],
  k: Float[Array, 'b s g k'],
  v: Float[Array, 'b s g k'],
  allowed: Bool[Array, 'b m s'],
) -> Float[Array, 'b m h k']:
  """Attention, softmax(q k^T / sqrt(k)) v; h/g query heads per key head."""
  grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
  logits = q.shape[3] ** -0.5 * jnp.einsum(
    'bqgrk,bsgk->bgrqs', grouped, k, preferred_element_type=jnp.float32
  )
  # The least finite value: queries of padding see nothing, and stay finite.
  logits = jnp.where(allowed[:, None, None], logits, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bgrqs,bsgk->bqgrk', weights, v).reshape(q.shape)
