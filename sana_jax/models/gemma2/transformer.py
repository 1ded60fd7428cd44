"""Gemma-2 as a text encoder: its last hidden states condition SANA.

The layers are one scan over stacked parameters; which of them use a sliding
window is an input of the scan. Positions start at 0, and padding is on the
right. Padded positions are computed too: the image model masks them.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.models.gemma2.modules import (
  causal_mask,
  Layer,
  near_mask,
  Past,
  rotary_tables,
  soft_cap,
)
from sana_jax.models.layers import RMSNorm
from sana_jax.sharding.activations import constrain
from sana_jax.typing import Array, Bool, DType, Float, Int

SIZES: Mapping[str, Mapping[str, int]] = {
  'gemma2_2b': dict(
    vocab_size=256_000,
    width=2304,
    depth=26,
    heads=8,
    kv_heads=4,
    head_dim=256,
    hidden=9216,
    query_scale=256,
  ),
}


class Gemma2(nn.Module):
  """Causal transformer with soft-capped logits and tied embeddings.

  Attributes:
    hidden: width of the gated MLP.
    query_scale: attention logits are divided by its square root.
    layer_types: 'sliding' or 'full' for each layer; empty alternates, starting
      with 'sliding'.
    remat: recompute a layer's activations in the backward pass.
    dtype: dtype of the computation; parameters keep their own.
  """

  vocab_size: int
  width: int
  depth: int
  heads: int
  kv_heads: int
  head_dim: int
  hidden: int
  query_scale: int
  attention_softcap: float = 50.0
  final_softcap: float = 30.0
  sliding_window: int = 4096
  rope_theta: float = 10_000.0
  eps: float = 1e-6
  layer_types: tuple[str, ...] = ()
  remat: bool = False
  dtype: DType = jnp.float32

  def setup(self):
    self.embed = nn.Embed(
      self.vocab_size,
      self.width,
      dtype=self.dtype,
      embedding_init=nn.initializers.normal(0.02),
    )
    layer = Layer
    if self.remat:  # 5: `keep` is a Python string (self counts as 0).
      layer = nn.remat(Layer, prevent_cse=False, static_argnums=(5,))
    self.layers = nn.scan(
      layer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, 0, nn.broadcast, nn.broadcast),
      length=self.depth,
    )(
      heads=self.heads,
      kv_heads=self.kv_heads,
      head_dim=self.head_dim,
      hidden=self.hidden,
      query_scale=self.query_scale,
      softcap=self.attention_softcap,
      eps=self.eps,
      dtype=self.dtype,
    )
    self.final_norm = RMSNorm(self.eps, offset=1.0, dtype=self.dtype)

  def __call__(
    self,
    tokens: Int[Array, 'b m'],
    mask: Bool[Array, 'b m'],
    past: Past | None = None,
  ) -> Float[Array, 'b m d']:
    """Returns the last hidden state, after the final norm, SANA's condition.

    With `past`, `tokens` continue its prefix.
    """
    _, x, _ = self._run(tokens, mask, past=past)
    return self.final_norm(x)

  def read(
    self, tokens: Int[Array, '1 s']
  ) -> tuple[Float[Array, '1 s d'], Past]:
    """Returns the last hidden state of a prefix, and its keys and values.

    A prefix shared by many texts is computed once.
    """
    _, x, past = self._run(tokens, jnp.ones_like(tokens, bool), keep='past')
    return self.final_norm(x), past

  def hidden_states(
    self, tokens: Int[Array, 'b m'], mask: Bool[Array, 'b m']
  ) -> Float[Array, 'l b m d']:
    """Returns the embeddings and every layer's output, l = depth + 1.

    The last one is after the final norm, as in transformers.
    """
    first, last, outputs = self._run(tokens, mask, keep='states')
    return jnp.concatenate(
      [first[None], outputs[:-1], self.final_norm(last)[None]]
    )

  def logits(
    self, tokens: Int[Array, 'b m'], mask: Bool[Array, 'b m']
  ) -> Float[Array, 'b m v']:
    """Returns logits of the next token, in float32 (embeddings are tied)."""
    x = self(tokens, mask)
    table = self.embed.embedding.astype(self.dtype)
    scores = jnp.einsum(
      'bmd,vd->bmv', x, table, preferred_element_type=jnp.float32
    )
    return soft_cap(scores, self.final_softcap)

  def is_sliding(self) -> tuple[bool, ...]:
    """Whether each layer uses a sliding window."""
    types = self.layer_types or ('sliding', 'full') * self.depth
    return tuple(t == 'sliding' for t in types[: self.depth])

  def _run(self, tokens, mask, past=None, keep=''):
    # The factor is rounded to the model's dtype first, as in transformers.
    x = self.embed(tokens) * jnp.asarray(self.width**0.5, self.dtype)
    x = constrain(x, 'batch', None, None)
    m, before = tokens.shape[1], 0 if past is None else past.keys.shape[2]
    shared = (
      causal_mask(mask, before),
      near_mask(m, self.sliding_window, before),
      *rotary_tables(m, self.head_dim, self.rope_theta, before),
    )
    last, outputs = self.layers(
      x, jnp.array(self.is_sliding()), past, shared, keep
    )
    return x, last, outputs
