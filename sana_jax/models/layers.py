"""Layers shared by the models: dense layers, norms, embeddings."""

from collections.abc import Callable
import math

import flax.linen as nn
from flax.linen.dtypes import promote_dtype
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.typing import Array, DType, Float


class Dense(nn.Module):
  """Dense layer, x @ kernel + bias, plus scale (x @ down) @ up with an adapter.

  Parameters are those of nn.Dense. An adapter is this layer's entry in the
  collection `adapters`: down [d, r], up [r, f] and the constant `scale`, which
  gets no gradient; with DoRA also `gain` [f], a factor of x @ kernel. Its
  products are of rank r throughout: no array of the kernel's size is made for
  it.
  """

  features: int
  use_bias: bool = True
  kernel_init: Callable = nn.initializers.lecun_normal()
  bias_init: Callable = nn.initializers.zeros
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b f']:
    kernel = self.param(
      'kernel', self.kernel_init, (x.shape[-1], self.features)
    )
    bias = None
    if self.use_bias:
      bias = self.param('bias', self.bias_init, (self.features,))
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = _product(x, kernel)
    adapter = _adapter(self)
    if 'gain' in adapter:
      y *= adapter['gain']
    if bias is not None:
      y += bias.reshape((1,) * (y.ndim - 1) + (-1,))
    if adapter:
      y += _product(_product(x, adapter['down']), adapter['up'])
    return y


class Patches(nn.Module):
  """Dense layer on patches; an adapter's `down` is [h w d r].

  Parameters are those of nn.Conv with a stride of `patch`.
  """

  features: int
  patch: tuple[int, int]
  dtype: DType = jnp.float32
  kernel_init: Callable = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x d']) -> Float[Array, 'b y2 x2 f']:
    shape = (*self.patch, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    y, adapter = self._product(x, kernel), _adapter(self)
    if 'gain' in adapter:
      y *= adapter['gain']
    y += bias.reshape((1,) * (y.ndim - 1) + (-1,))
    if adapter:
      y += _product(self._product(x, adapter['down']), adapter['up'])
    return y

  def _product(self, x, kernel):
    layout = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
      x, kernel, self.patch, 'VALID', dimension_numbers=layout
    )


def _adapter(layer):
  """The adapter of a layer in its dtype, its `up` scaled; {} without one."""
  read = lambda name: layer.get_variable('adapters', name)
  if not layer.has_variable('adapters', 'down'):
    return {}
  out = {
    'down': read('down'),
    'up': jax.lax.stop_gradient(read('scale')) * read('up'),
  }
  if layer.has_variable('adapters', 'gain'):
    out['gain'] = read('gain')
  return {name: x.astype(layer.dtype) for name, x in out.items()}


def _product(x, matrix):
  return jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())))


def float32_dot(x, kernel, axes, **options):
  """Product in float32 for nn.Dense, so that its bias is added unrounded."""
  options |= {'preferred_element_type': jnp.float32}
  return jax.lax.dot_general(x, kernel, axes, **options)


class RMSNorm(nn.Module):
  """RMS norm, x / rms(x) * (offset + scale) [+ bias], over channels in float32.

  `offset` is 1 in Gemma, whose scales are stored around zero.
  """

  eps: float
  use_bias: bool = False
  offset: float = 0.0
  scale_init: float | None = None  # None: 1 - offset.
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    start = 1.0 - self.offset if self.scale_init is None else self.scale_init
    shape = x.shape[-1:]
    scale = self.param('scale', nn.initializers.constant(start), shape)
    # f32: bfloat16 weights near 1 would round in the sum.
    y = rms_normalise(x, self.eps) * (self.offset + scale.astype(jnp.float32))
    if self.use_bias:
      y = y + self.param('bias', nn.initializers.zeros, shape)
    return y.astype(self.dtype)


def rms_normalise(x: Float[Array, '*b d'], eps: float) -> Float[Array, '*b d']:
  """RMS normalisation, x / sqrt(mean(x^2) + eps), in float32."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def layer_normalise(x: Float[Array, '*b d'], eps: float):
  """LayerNorm without parameters, in float32."""
  x = x.astype(jnp.float32)
  x = x - jnp.mean(x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def modulate(x, shift, scale):
  """AdaLN modulation, x (1 + scale) + shift, with one of each per example."""
  return x * (1 + scale) + shift


def sinusoidal_embedding(
  t: Float[Array, 'b'], size: int = 256, max_period: float = 10_000.0
) -> Float[Array, 'b {size}']:
  """Sinusoids [cos | sin] of t at geometric frequencies, float32, as in DiT."""
  half = size // 2
  # Rounded once from float64: at t = 999 an ulp of a frequency is visible.
  exponents = -math.log(max_period) * np.arange(half, dtype=np.float32) / half
  frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
  angles = t.astype(jnp.float32)[:, None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_embedding(
  height: int, width: int, size: int, *, base: int, scale: float
) -> np.ndarray:
  """Fixed 2-D sin-cos table [height*width, size] of the 2K and 4K models.

  Positions are stretched so that any aspect ratio spans `base` / `scale`; the
  first half of the channels encodes x, the second y (diffusers, 1.2 there).
  """
  omega = 10_000.0 ** (-np.arange(size // 4, dtype=np.float64) / (size // 4))

  def encode(length):
    grid = np.arange(length, dtype=np.float32)
    grid = grid / np.float32(length / base) / np.float32(scale)
    angles = grid[:, None].astype(np.float64) * omega
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

  x = np.broadcast_to(encode(width)[None], (height, width, size // 2))
  y = np.broadcast_to(encode(height)[:, None], (height, width, size // 2))
  table = np.concatenate([x, y], axis=-1).reshape(height * width, size)
  return table.astype(np.float32)
