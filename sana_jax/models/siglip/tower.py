"""SigLIP's vision tower: features of image patches.

A ViT without a class token (SigLIP, arXiv:2303.15343; transformers'
SiglipVisionModel). NVILA uses the hidden states before the last layer, so that
`depth` is one less than its config.json has, and the final norm and the pooling
head do not exist here.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.layers import float32_dot, Patches
from sana_jax.sharding.activations import constrain
from sana_jax.typing import Array, DType, Float

SIZES: Mapping[str, Mapping[str, int]] = {
  # Without its last layer.
  'so400m_448': dict(
    image_size=448, patch=14, width=1152, depth=26, heads=16, hidden=4304
  ),
}


class SigLIP(nn.Module):
  """Vision transformer on square images.

  Attributes:
    image_size: side in pixels; the positions are learned for it.
    hidden: width of the MLP.
    dtype: dtype of the computation; parameters keep their own.
  """

  image_size: int
  patch: int
  width: int
  depth: int
  heads: int
  hidden: int
  eps: float = 1e-6
  dtype: DType = jnp.float32

  @property
  def side(self) -> int:
    """Patches along each side; of a partial one, nothing is used."""
    return self.image_size // self.patch

  @nn.compact
  def __call__(self, images: Float[Array, 'b y x 3']) -> Float[Array, 'b n d']:
    """Returns the residual stream after the last layer, n = side^2."""
    x = Patches(
      self.width, (self.patch, self.patch), self.dtype, name='patch_embed'
    )(images)
    position = self.param(
      'position', nn.initializers.normal(0.02), (self.side**2, self.width)
    )
    x = x.reshape(x.shape[0], -1, self.width) + position.astype(self.dtype)
    x = constrain(x, 'batch', None, None)
    if not self.depth:
      return x
    x, _ = nn.scan(
      Layer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.depth,
    )(self.heads, self.hidden, self.eps, self.dtype, name='layers')(x, None)
    return x


class Layer(nn.Module):
  """Body of the scan: attention and an MLP, each after a norm."""

  heads: int
  hidden: int
  eps: float
  dtype: DType

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d'], _: None):
    """Returns x after the layer, and nothing for the scan to stack."""
    x = x + self._attention(self._norm('attention_norm')(x))
    # f32 as PyTorch, which rounds only the results.
    y = self._dense('fc1', self.hidden)(self._norm('mlp_norm')(x))
    y = jax.nn.gelu(y, approximate=True).astype(self.dtype)
    x = x + self._dense('fc2', x.shape[-1])(y).astype(self.dtype)
    return constrain(x, 'batch', None, None), None

  def _attention(self, x):
    heads = (*x.shape[:2], self.heads, x.shape[-1] // self.heads)
    q, k, v = (
      self._dense(name, x.shape[-1])(x).astype(self.dtype).reshape(heads)
      for name in ('query', 'key', 'value')
    )
    logits = heads[-1] ** -0.5 * jnp.einsum(
      'bqhk,bshk->bhqs', q, k, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    y = jnp.einsum('bhqs,bshk->bqhk', weights, v)
    y = self._dense('out', x.shape[-1])(y.reshape(x.shape))
    return y.astype(self.dtype)

  def _norm(self, name):
    # Two passes: E[x^2] - E[x]^2 cancels where a channel dominates.
    return nn.LayerNorm(
      self.eps, dtype=self.dtype, use_fast_variance=False, name=name
    )

  def _dense(self, name, features):
    return nn.Dense(
      features, dtype=self.dtype, dot_general=float32_dot, name=name
    )
