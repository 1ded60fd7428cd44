"""Mix-FFN (GLUMBConv): the feed-forward that gives SANA its sense of place.

conv1x1 -> SiLU -> depthwise 3x3 -> a * SiLU(g) -> conv1x1. The 3x3 convolution
sees neighbours, which is why the transformer needs no position embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.kernels import glumb_conv
from sana_jax.models.layers import Dense
from sana_jax.typing import Array, DType, Float, Grid

# PyTorch's default for convolutions: uniform in +-1/sqrt(fan in).
torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class MixFFN(nn.Module):
  """Expands the width by `ratio`, mixes neighbours, gates, projects back.

  The only part of a block that depends on how its tokens lie on their grid.
  """

  ratio: float
  dtype: DType

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], grid: Grid
  ) -> Float[Array, 'b n d']:
    batch, tokens, channels = x.shape
    hidden = int(self.ratio * channels)
    # Here, where tokens are narrow: a TPU copies rows that are no whole tiles.
    x = x.reshape(batch, *grid, channels)
    x = Dense(
      2 * hidden,
      name='inverted',
      kernel_init=torch_uniform,
      bias_init=_uniform(channels**-0.5),
      dtype=self.dtype,
    )(x)
    depthwise = Depthwise(2 * hidden, name='depthwise')
    kernel, bias = depthwise()
    x = glumb_conv(x, kernel.astype(self.dtype), bias.astype(self.dtype))
    x = Dense(
      channels,
      use_bias=False,
      name='point',
      kernel_init=torch_uniform,
      dtype=self.dtype,
    )(x)
    return x.reshape(batch, tokens, channels)


class Depthwise(nn.Module):
  """Declares a depthwise 3x3 kernel [3 3 c] and its bias [c]."""

  channels: int

  @nn.compact
  def __call__(self):
    init = _uniform(1 / 3)  # A fan-in of 9.
    return (
      self.param('kernel', init, (3, 3, self.channels)),
      self.param('bias', init, (self.channels,)),
    )


def _uniform(bound):
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
    key, shape, dtype, -bound, bound
  )
