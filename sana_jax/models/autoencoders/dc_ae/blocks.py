"""Blocks of the deep compression autoencoder (DC-AE, arXiv:2410.10733).

The attention is EfficientViT's (arXiv:2205.14756): ReLU linear attention over
the tokens and, as further heads, over their depthwise-convolved copies. Names
and numbers follow diffusers. One difference: attention sums are float32 in both
forms; diffusers computes the quadratic one in the model's dtype.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.kernels import (
  conv3x3_norm,
  conv3x3_silu,
  depthwise_conv,
  glumb_conv,
  relu_linear_attention,
)
from sana_jax.models import layers
from sana_jax.typing import Array, DType, Float

ACTS = {'relu': nn.relu, 'silu': nn.silu}
EPS = 1e-5  # Of every norm.
_INIT = nn.initializers.lecun_normal()


def relu_quadratic_attention(
  q: Float[Array, 'b n h d'],
  k: Float[Array, 'b n h d'],
  v: Float[Array, 'b n h d'],
  eps: float = 1e-15,
) -> Float[Array, 'b n h d']:
  """ReLU linear attention through its n x n matrix: less work while n <= d."""
  scores = jnp.einsum(
    'bnhd,bmhd->bhnm',
    nn.relu(q),
    nn.relu(k),
    preferred_element_type=jnp.float32,
  )
  scores /= jnp.sum(scores, axis=-1, keepdims=True) + eps
  return jnp.einsum('bhnm,bmhd->bnhd', scores.astype(v.dtype), v)


def conv3x3(features: int, *, dtype: DType, name: str, **kwargs) -> nn.Conv:
  """A 3x3 convolution padded by one pixel on every side, also if strided."""
  return nn.Conv(
    features, (3, 3), padding=((1, 1), (1, 1)), dtype=dtype, name=name, **kwargs
  )


class BatchNorm(nn.Module):
  """Batch normalisation by stored statistics: this model never updates them.

  The statistics are in the collection 'batch_stats', apart from what trains.
  """

  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x c']) -> Float[Array, 'b y x c']:
    shape = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, shape).value
    var = self.variable('batch_stats', 'var', jnp.ones, shape).value
    # Batches seen: nothing reads it, but the PyTorch format stores it.
    self.variable('batch_stats', 'count', jnp.zeros, (), jnp.int32)
    x = (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + EPS)
    return (x * scale + bias).astype(self.dtype)


def make_norm(kind: str, *, dtype: DType, name: str) -> nn.Module:
  """'rms_norm' over channels, with a bias, or 'batch_norm'."""
  if kind == 'batch_norm':
    return BatchNorm(dtype=dtype, name=name)
  return layers.RMSNorm(eps=EPS, use_bias=True, dtype=dtype, name=name)


class Parameters(nn.Module):
  """A layer's parameters, (initialiser, shape) by name, without what it does.

  For operations that do more at once than one layer.
  """

  table: Mapping[str, tuple[Callable, tuple[int, ...]]]

  @nn.compact
  def __call__(self) -> list[Array]:
    return [self.param(name, *row) for name, row in self.table.items()]


class ResBlock(nn.Module):
  """x + norm(conv(act(conv(x))))."""

  norm: str = 'rms_norm'
  act: str = 'silu'
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x c']) -> Float[Array, 'b y x c']:
    if (self.norm, self.act) == ('rms_norm', 'silu'):
      return self._fused(x)
    channels = x.shape[-1]
    y = conv3x3(channels, dtype=self.dtype, name='conv1')(x)
    y = ACTS[self.act](y)
    y = conv3x3(channels, use_bias=False, dtype=self.dtype, name='conv2')(y)
    return x + make_norm(self.norm, dtype=self.dtype, name='norm')(y)

  def _fused(self, x):
    """The same in two operations, with the same parameters."""
    channels = x.shape[-1]
    kernel = _INIT, (3, 3, channels, channels)
    zeros = nn.initializers.zeros, (channels,)
    ones = nn.initializers.ones, (channels,)
    kernel1, bias = Parameters(
      {'kernel': kernel, 'bias': zeros}, name='conv1'
    )()
    (kernel2,) = Parameters({'kernel': kernel}, name='conv2')()
    scale, shift = Parameters({'scale': ones, 'bias': zeros}, name='norm')()
    y = conv3x3_silu(
      x.astype(self.dtype), kernel1.astype(self.dtype), bias.astype(self.dtype)
    )
    return conv3x3_norm(y, kernel2.astype(self.dtype), scale, shift, x, eps=EPS)


class Scale(nn.Module):
  """Queries, keys and values seen through a depthwise kernel of `size`.

  Two convolutions without bias: depthwise, then 1x1 in groups of `head_dim`
  channels. Their kernels are [k k c] and [groups in out].
  """

  size: int
  head_dim: int
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, qkv: Float[Array, 'b y x c']) -> Float[Array, 'b y x c']:
    channels, d = qkv.shape[-1], self.head_dim
    depthwise = self.param(
      'depthwise_kernel', _INIT, (self.size, self.size, channels)
    )
    grouped = self.param(
      'grouped_kernel',
      nn.initializers.lecun_normal(batch_axis=(0,)),
      (channels // d, d, d),
    )
    qkv = depthwise_conv(qkv, depthwise.astype(self.dtype))
    groups = qkv.reshape(*qkv.shape[:-1], -1, d)
    out = jnp.einsum('byxgi,gio->byxgo', groups, grouped.astype(self.dtype))
    return out.reshape(qkv.shape)


class MultiScaleAttention(nn.Module):
  """x + norm(attention(x)); ReLU attention over the image at several scales.

  Head g reads channels [3dg, 3d(g+1)) of all scales' [Q|K|V] put one after
  another and splits those into q, k and v: not the g-th head of `query`.
  """

  scales: tuple[int, ...] = (5,)
  head_dim: int = 32
  norm: str = 'rms_norm'
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x c'], attend: Callable | None = None
  ) -> Float[Array, 'b y x c']:
    """`attend(q, k, v)` is the attention over all of x, where none is given."""
    b, height, width, channels = x.shape
    inner = channels // self.head_dim * self.head_dim
    dense = lambda size, name: nn.Dense(
      size, use_bias=False, dtype=self.dtype, name=name
    )
    qkv = jnp.concatenate(
      [dense(inner, name)(x) for name in ('query', 'key', 'value')], axis=-1
    )
    scales = [
      Scale(size, self.head_dim, self.dtype, name=f'scale_{i}')(qkv)
      for i, size in enumerate(self.scales)
    ]
    qkv = jnp.concatenate([qkv, *scales], axis=-1)
    qkv = qkv.reshape(b, height * width, -1, 3 * self.head_dim)
    q, k, v = jnp.split(qkv, 3, axis=-1)
    if attend is None:
      linear = height * width > self.head_dim
      attend = relu_linear_attention if linear else relu_quadratic_attention
    y = attend(q, k, v).reshape(b, height, width, -1)
    y = dense(channels, 'out')(y)
    return x + make_norm(self.norm, dtype=self.dtype, name='norm')(y)


class GLUMBConv(nn.Module):
  """x + norm(point(gated depthwise 3x3(SiLU(inverted(x))))), 4 times wider."""

  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x c']) -> Float[Array, 'b y x c']:
    channels = x.shape[-1]
    hidden = 2 * 4 * channels
    kernel = self.param('depth_kernel', _INIT, (3, 3, hidden))
    bias = self.param('depth_bias', nn.initializers.zeros, (hidden,))
    y = nn.Dense(hidden, dtype=self.dtype, name='inverted')(x)
    y = glumb_conv(y, kernel.astype(self.dtype), bias.astype(self.dtype))
    y = nn.Dense(channels, use_bias=False, dtype=self.dtype, name='point')(y)
    return x + make_norm('rms_norm', dtype=self.dtype, name='norm')(y)


class EfficientViTBlock(nn.Module):
  """Multi-scale attention, then the gated convolution; both residual."""

  scales: tuple[int, ...] = (5,)
  head_dim: int = 32
  norm: str = 'rms_norm'
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x c'], attend: Callable | None = None
  ) -> Float[Array, 'b y x c']:
    x = MultiScaleAttention(
      self.scales,
      self.head_dim,
      self.norm,
      self.dtype,
      name='attention',
    )(x, attend)
    return GLUMBConv(self.dtype, name='ffn')(x)
