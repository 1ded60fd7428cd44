"""NVILA's projector: neighbouring patches become one token.

`mlp_downsample_3x3_fix` and its like in NVlabs/VILA's base_projector.py: the
map is filled up with zeros at its right and lower edge, squares of `merge` x
`merge` patches are joined by channel, and an MLP follows with a norm before
every layer but the last.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.models.layers import float32_dot
from sana_jax.typing import Array, DType, Float


class Projector(nn.Module):
  """MLP on merged patches.

  Attributes:
    merge: patches along each side of a token.
    widths: outputs of the dense layers.
  """

  merge: int
  widths: tuple[int, ...]
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x c']) -> Float[Array, 'b y2 x2 d']:
    x = merged(x, self.merge)
    for i, width in enumerate(self.widths):
      if i:
        x = jax.nn.gelu(x, approximate=False)
      if i < len(self.widths) - 1:
        x = nn.LayerNorm(
          1e-5, dtype=self.dtype, use_fast_variance=False, name=f'norm{i}'
        )(x)
      x = nn.Dense(
        width, dtype=self.dtype, dot_general=float32_dot, name=f'linear{i}'
      )(x)
    return x.astype(self.dtype)


def merged(
  x: Float[Array, 'b y x c'], merge: int
) -> Float[Array, 'b y2 x2 c2']:
  """Squares of patches as channels, ordered by row, column and channel."""
  b, y, x_, c = x.shape
  x = jnp.pad(x, ((0, 0), (0, -y % merge), (0, -x_ % merge), (0, 0)))
  rows, columns = x.shape[1] // merge, x.shape[2] // merge
  x = x.reshape(b, rows, merge, columns, merge, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, rows, columns, merge**2 * c)
