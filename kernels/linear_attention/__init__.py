"""ReLU linear attention; `state` and `read` are its two halves."""

from sana_jax.kernels.linear_attention.xla import (
  read,
  relu_linear_attention,
  State,
  state,
)

__all__ = ['State', 'read', 'relu_linear_attention', 'state']
