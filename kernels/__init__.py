"""The two operations that make SANA what it is; imported as sana_jax.kernels.

Each op is a folder whose `xla.py` is its definition. Nothing here knows the
rest of the package.
"""

from sana_jax.kernels.glumb_conv.xla import depthwise_conv, glumb_conv
from sana_jax.kernels.linear_attention.xla import relu_linear_attention

__all__ = ['depthwise_conv', 'glumb_conv', 'relu_linear_attention']
