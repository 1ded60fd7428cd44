"""The halves of DC-AE's residual block (arXiv:2410.10733), in plain XLA.

  y = silu(conv3x3(x) + bias);   out = x + rms_norm(conv3x3(y)) scale + shift

Zeros lie around the picture. The norm is over channels, in float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def conv3x3_silu(
  x: Float[Array, 'b y x c'],
  kernel: Float[Array, '3 3 c o'],
  bias: Float[Array, 'o'],
  *,
  interpret: bool = False,
) -> Float[Array, 'b y x o']:
  """silu(conv(x) + bias), in x's dtype.

  `interpret` is ignored: only kernels use it.
  """
  del interpret
  return jax.nn.silu(_convolve(x, kernel) + bias.astype(x.dtype))


def conv3x3_norm(
  x: Float[Array, 'b y x c'],
  kernel: Float[Array, '3 3 c o'],
  scale: Float[Array, 'o'],
  shift: Float[Array, 'o'],
  residual: Float[Array, 'b y x o'],
  *,
  eps: float = 1e-5,
  interpret: bool = False,
) -> Float[Array, 'b y x o']:
  """residual + conv(x) / rms * scale + shift, in the wider of their dtypes."""
  del interpret
  # f32: squares of bfloat16 numbers, and weights near 1, would round.
  y = _convolve(x, kernel).astype(jnp.float32)
  y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  return residual + (y * scale.astype(jnp.float32) + shift).astype(x.dtype)


def _convolve(x, kernel):
  return jax.lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (1, 1),
    ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
