"""3x3 convolutions of DC-AE's residual block, fused with their epilogues."""

from sana_jax.kernels import dispatch
from sana_jax.kernels.conv3x3 import xla

_MOSAIC_TPU = 'sana_jax.kernels.conv3x3.mosaic_tpu'

conv3x3_silu = dispatch.Op(
  'conv3x3_silu',
  xla.conv3x3_silu,
  kernels={'mosaic_tpu': f'{_MOSAIC_TPU}:conv3x3_silu'},
  order={},
)

conv3x3_norm = dispatch.Op(
  'conv3x3_norm',
  xla.conv3x3_norm,
  kernels={'mosaic_tpu': f'{_MOSAIC_TPU}:conv3x3_norm'},
  order={},
)

__all__ = ['conv3x3_norm', 'conv3x3_silu']
