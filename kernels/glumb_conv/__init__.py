"""Gated convolution of SANA's Mix-FFN, and its depthwise convolution."""

from sana_jax.kernels import dispatch
from sana_jax.kernels.glumb_conv import xla
from sana_jax.kernels.glumb_conv.xla import depthwise_conv

glumb_conv = dispatch.Op(
  'glumb_conv',
  xla.glumb_conv,
  kernels={
    'mosaic_gpu': 'sana_jax.kernels.glumb_conv.mosaic_gpu:glumb_conv',
    'mosaic_tpu': 'sana_jax.kernels.glumb_conv.mosaic_tpu:glumb_conv',
    'xla_jvp': 'sana_jax.kernels.glumb_conv.xla:glumb_conv_jvp',
  },
  order={},
)

__all__ = ['depthwise_conv', 'glumb_conv']
