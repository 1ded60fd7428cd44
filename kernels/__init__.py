"""Operations with custom kernels; imported as sana_jax.kernels.

Each op is a folder with its definition, `xla.py`, its kernels, and an
`__init__.py` that lists which one runs where (see dispatch.py). Nothing here
imports the rest of the package.
"""

from sana_jax.kernels.conv3x3 import conv3x3_norm, conv3x3_silu
from sana_jax.kernels.dispatch import (
  platform,
  prefer,
  prefer_in_all_threads,
  recorded,
  UnsupportedError,
)
from sana_jax.kernels.glumb_conv import depthwise_conv, glumb_conv
from sana_jax.kernels.linear_attention import relu_linear_attention

OPS = {
  op.name: op
  for op in (relu_linear_attention, glumb_conv, conv3x3_silu, conv3x3_norm)
}

__all__ = [
  'OPS',
  'UnsupportedError',
  'conv3x3_norm',
  'conv3x3_silu',
  'depthwise_conv',
  'glumb_conv',
  'platform',
  'prefer',
  'prefer_in_all_threads',
  'recorded',
  'relu_linear_attention',
]
