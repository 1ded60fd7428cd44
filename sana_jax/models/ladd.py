"""Discriminator heads of latent adversarial diffusion distillation (LADD).

Each head scores the tokens of one layer of a frozen teacher (arXiv:2403.12015;
2503.09641, 3.3). It is that of StyleGAN-T (arXiv:2301.09515), with 1-D
convolutions along the tokens, row by row, and N a norm and LeakyReLU 0.2:

    x = N(conv_1(features))
    logits = conv_1((x + N(conv_9(x))) / sqrt 2)

conv_9 pads circularly. Kernels are divided by their spectral norm
(arXiv:1802.05957), and norms use the statistics of virtual batches.

Differences from SANA-Sprint's code: a step calls `renewed` once, where PyTorch
iterates in each forward pass; virtual batches are parts of the global batch, on
any mesh, not of a device's; biases before a batch norm, which removes them, are
omitted; biases start at 0. `norm='layer'` and `spectral=False` make stateless
heads, which score an example independently of its batch.
"""

from collections.abc import Mapping, Sequence
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.models.layers import layer_normalise
from sana_jax.typing import Array, DType, Float, Params, PyTree

NORMS = ('batch', 'layer')
_WIDE = 9  # Tokens that the second convolution sees.
_EPS, _LEAST_LENGTH = 1e-5, 1e-12
# Uniform up to 1 / sqrt(fan in), the default of torch's Conv1d.
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
# f32: TPUs round operands of a matmul to bfloat16 by default.
_einsum = functools.partial(jnp.einsum, precision='highest')


class Heads(nn.Module):
  """Logits of one head for each of the features, above 0 for real latents.

  `init` returns the collections `params` and, with spectral norm, `spectral`:
  vectors u [o] and v [k c] of each kernel [k c o], constants for the gradient,
  which `renewed` improves. `apply` takes both.

  Attributes:
    norm: 'batch', over the tokens and `virtual_batch` consecutive examples,
      also at evaluation; or 'layer', over the channels of a token.
    spectral: whether kernels are divided by their spectral norm.
    virtual_batch: size limit of a virtual batch; see `group_means`.
    dtype: of the convolutions. Norms and spectral norms are in float32.
  """

  norm: str = 'batch'
  spectral: bool = True
  virtual_batch: int = 8
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, features: Sequence[Float[Array, 'b _ d']]
  ) -> Float[Array, 'b _']:
    """Logits in float32: those of the first head's tokens, then the next's."""
    fields = self.norm, self.spectral, self.virtual_batch, self.dtype
    logits = [
      Head(*fields, name=f'head_{i}')(x) for i, x in enumerate(features)
    ]
    return jnp.concatenate(logits, axis=1)

  @nn.nowrap
  def renewed(self, params: Params, spectral: PyTree) -> PyTree:
    """Next `spectral`; see the function of this name."""
    return renewed(params, spectral)


class Head(nn.Module):
  """Logits of tokens; the attributes are those of `Heads`."""

  norm: str
  spectral: bool
  virtual_batch: int
  dtype: DType

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n']:
    conv = functools.partial(
      SpectralConv, spectral=self.spectral, dtype=self.dtype
    )

    def layer(x, size, name):
      use_bias = self.norm != 'batch'
      x = conv(x.shape[-1], size, use_bias=use_bias, name=name)(x)
      x = Norm(self.norm, self.virtual_batch, name=f'{name}_norm')(x)
      return nn.leaky_relu(x, 0.2)

    x = layer(x, 1, 'first')
    x = (x + layer(x, _WIDE, 'second')) / math.sqrt(2)
    return conv(1, 1, name='out')(x)[..., 0].astype(jnp.float32)


class SpectralConv(nn.Module):
  """1-D convolution with circular padding, of spectral norm 1."""

  features: int
  size: int
  use_bias: bool = True
  spectral: bool = True
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n o']:
    shape = self.size, x.shape[-1], self.features
    kernel = self.param('kernel', _KERNEL_INIT, shape)
    if self.spectral:
      draw = lambda: jax.random.normal(self.make_rng('params'), shape[2:])
      u = self.variable('spectral', 'u', lambda: _unit(draw())).value
      # A v of this u: a random one gives a sigma of any sign, near 0.
      toward = lambda: _unit(_einsum('kio,o->ki', kernel, u))
      v = self.variable('spectral', 'v', toward).value
      kernel = kernel / sigma(kernel, u, v)
    reach = self.size // 2
    y = jax.lax.conv_general_dilated(
      jnp.pad(
        x.astype(self.dtype), ((0, 0), (reach, reach), (0, 0)), mode='wrap'
      ),
      kernel.astype(self.dtype),
      window_strides=(1,),
      padding='VALID',
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      y = y + bias.astype(self.dtype)
    return y


class Norm(nn.Module):
  """Norm over virtual batches or channels, with scale and bias, in float32."""

  kind: str
  virtual_batch: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    if self.kind not in NORMS:
      raise ValueError(f'norm={self.kind!r} is not one of {NORMS}')
    y = (
      batch_normalise(x, self.virtual_batch)
      if self.kind == 'batch'
      else layer_normalise(x, _EPS)
    )
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    return (y * scale + bias).astype(x.dtype)


def batch_normalise(
  x: Float[Array, 'b n d'], virtual_batch: int
) -> Float[Array, 'b n d']:
  """Mean 0 and variance 1 of channels in each virtual batch, in float32."""
  x = x.astype(jnp.float32)
  x = x - group_means(jnp.mean(x, axis=1), virtual_batch)[:, None]
  var = group_means(jnp.mean(x * x, axis=1), virtual_batch)[:, None]
  return x * jax.lax.rsqrt(var + _EPS)


def group_means(
  values: Float[Array, 'b d'], virtual_batch: int
) -> Float[Array, 'b d']:
  """Mean over the virtual batch of each example, for each example.

  Sizes are those of `torch.chunk(values, ceil(b / virtual_batch))`: equal ones
  with a smaller last one, such as 7, 7 and 6 of 20 examples. Only an array
  without a token axis is regrouped, which is all that a mesh communicates.
  """
  count, width = values.shape
  size = math.ceil(count / math.ceil(count / virtual_batch))
  groups = math.ceil(count / size)
  sizes = np.minimum(size, count - size * np.arange(groups))
  padded = jnp.pad(values, ((0, groups * size - count), (0, 0)))
  sums = jnp.sum(padded.reshape(groups, size, width), axis=1)
  means = sums / np.float32(sizes)[:, None]
  return jnp.repeat(means, size, axis=0)[:count]


def sigma(
  kernel: Float[Array, 'k c o'], u: Float[Array, 'o'], v: Float[Array, 'k c']
) -> Float[Array, '']:
  """Estimate of the spectral norm of the kernel, as a matrix [o, k c]: u W v.

  u and v are constants for the gradient.
  """
  u, v = jax.lax.stop_gradient((u, v))
  return jnp.sum(u * _einsum('kio,ki->o', kernel.astype(jnp.float32), v))


def renewed(params: Params, spectral: PyTree) -> PyTree:
  """Next `spectral`, by one power iteration for each kernel of `params`.

  A training step calls it once, before its forward passes, and keeps the result
  for the next step. Without gradient.
  """
  if 'u' in spectral:
    return _iterated(params['kernel'], spectral)
  return {name: renewed(params[name], x) for name, x in spectral.items()}


def _iterated(
  kernel: Float[Array, 'k c o'], vectors: Mapping[str, Array]
) -> dict[str, Array]:
  kernel = jax.lax.stop_gradient(kernel.astype(jnp.float32))
  u = jax.lax.stop_gradient(vectors['u'])
  v = _unit(_einsum('kio,o->ki', kernel, u))
  return {'u': _unit(_einsum('kio,ki->o', kernel, v)), 'v': v}


def _unit(x):
  """Array of the same direction and length 1."""
  return x / jnp.maximum(jnp.sqrt(jnp.sum(x * x)), _LEAST_LENGTH)
