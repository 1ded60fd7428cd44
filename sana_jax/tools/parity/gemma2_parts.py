"""Parts of Gemma-2, each with its name in transformers and its call here."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from sana_jax.models.gemma2 import Gemma2, modules
from sana_jax.models.layers import RMSNorm
from sana_jax.tools.parity import references
from sana_jax.typing import Array, Bool, PyTree

BEYOND = dict(sliding_window=5)
LOW_CAPS = dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0)


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of a layer: its name in transformers, and the call here.

  Attributes:
    ours: called with the model, the layer's parameters, the input of the
      reference's part, and the token mask.
    changes: changes to the tiny config.
  """

  name: str
  ours: Callable[[Gemma2, PyTree, np.ndarray, Bool[Array, 'b m']], np.ndarray]
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def layer(self) -> int:
    return int(self.name.split('.')[2])


class Attention(modules.Layer):
  """A layer's attention."""

  @nn.compact
  def __call__(self, x, allowed, cos, sin):
    return self._attention(x, allowed, cos, sin, None)[0]


class MLP(modules.Layer):
  """A layer's gated MLP."""

  @nn.compact
  def __call__(self, x):
    return self._mlp(x)


class Layer(modules.Layer):
  """A layer without collected outputs."""

  @nn.compact
  def __call__(self, x, sliding, shared):
    return super().__call__(x, sliding, None, shared, '')[0]


def norm(model, params, x, mask):
  return references.apply(
    RMSNorm(model.eps, offset=1.0, dtype=model.dtype),
    {'params': params['attention_norm']},
    x,
  )


def mlp(model, params, x, mask):
  return references.apply(MLP(**_fields(model)), {'params': params}, x)


def attention(sliding: bool):
  """Attention with sana_jax's mask and rotations."""

  def ours(model, params, x, mask):
    causal, near, cos, sin = _shared(model, mask)
    return references.apply(
      Attention(**_fields(model)),
      {'params': params},
      x,
      causal & (near | (not sliding)),
      cos,
      sin,
    )

  return ours


def layer(sliding: bool):
  """A whole layer."""
  return lambda model, params, x, mask: references.apply(
    Layer(**_fields(model)),
    {'params': params},
    x,
    jnp.array(sliding),
    _shared(model, mask),
  )


def _fields(model):
  return dict(
    heads=model.heads,
    kv_heads=model.kv_heads,
    head_dim=model.head_dim,
    hidden=model.hidden,
    query_scale=model.query_scale,
    softcap=model.attention_softcap,
    eps=model.eps,
    dtype=model.dtype,
  )


def _shared(model, mask):
  """Masks and rotations shared by all layers."""
  length = mask.shape[1]
  return (
    modules.causal_mask(jnp.array(mask)),
    modules.near_mask(length, model.sliding_window),
    *modules.rotary_tables(length, model.head_dim, model.rope_theta),
  )


_SLIDING, _FULL = 'model.layers.0', 'model.layers.1'
PARTS = {
  'RMSNorm': Part(f'{_FULL}.input_layernorm', norm),
  'gated MLP': Part(f'{_FULL}.mlp', mlp),
  'full attention': Part(f'{_FULL}.self_attn', attention(False), BEYOND),
  'sliding attention': Part(f'{_SLIDING}.self_attn', attention(True), BEYOND),
  'full attention, low cap': Part(
    f'{_FULL}.self_attn', attention(False), LOW_CAPS
  ),
  'sliding layer': Part(_SLIDING, layer(True), BEYOND),
  'full layer': Part(_FULL, layer(False), BEYOND),
}
