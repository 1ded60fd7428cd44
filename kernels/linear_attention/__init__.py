"""ReLU linear attention and its two halves, `state` and `read`."""

from sana_jax.kernels import dispatch
from sana_jax.kernels.linear_attention import xla
from sana_jax.kernels.linear_attention.xla import read, State, state

_HERE = 'sana_jax.kernels.linear_attention'
relu_linear_attention = dispatch.Op(
  'relu_linear_attention',
  xla.relu_linear_attention,
  kernels={
    'mosaic_gpu': f'{_HERE}.mosaic_gpu:relu_linear_attention',
    'mosaic_tpu': f'{_HERE}.mosaic_tpu:relu_linear_attention',
    'xla_chunked': f'{_HERE}.xla_chunked:relu_linear_attention',
  },
  order={},
)

__all__ = ['State', 'read', 'relu_linear_attention', 'state']
