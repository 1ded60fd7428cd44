"""The middle of SANA's Mix-FFN (GLUMBConv), the definition in plain XLA.

  a, g = split(depthwise3x3(silu(x)) + bias);   y = a * silu(g)

(SANA, arXiv:2410.10629, section 2.2; the order of the operations is the
code's: SiLU comes before the convolution.) The depthwise convolution is
written as k*k shifted multiply-adds: XLA's grouped convolution is 3 to 11
times slower on CPU, and elsewhere the shifts fuse with their neighbours.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def glumb_conv(
  x: Float[Array, 'b y x c2'],
  kernel: Float[Array, '3 3 c2'],
  bias: Float[Array, 'c2'],
  *,
  interpret: bool = False,
) -> Float[Array, 'b y x c']:
  """Mixes neighbours and gates; halves the channels.

  `interpret` is for the kernels; there is none here.
  """
  del interpret
  return _gated(depthwise_conv(jax.nn.silu(x), kernel) + bias)


def glumb_conv_jvp(
  x: Float[Array, 'b y x c2'],
  kernel: Float[Array, '3 3 c2'],
  bias: Float[Array, 'c2'],
  *,
  interpret: bool = False,
) -> Float[Array, 'b y x c']:
  """The same for `jax.jvp`, which Sprint's consistency loss takes.

  Its reverse mode is what JAX makes of it, and slower.
  """
  del interpret
  wide = jnp.promote_types(x.dtype, jnp.float32)  # Gradients, too, are sums.
  y = _sum(jax.nn.silu(x).astype(wide), kernel.astype(x.dtype))
  return _gated(y + bias.astype(wide)).astype(x.dtype)


def _gated(x):
  value, gate = jnp.split(x, 2, axis=-1)
  return value * jax.nn.silu(gate)


def depthwise_conv(
  x: Float[Array, 'b y x c'], kernel: Float[Array, 'k k c']
) -> Float[Array, 'b y x c']:
  """Convolves each channel with its own odd k x k kernel; zero padding."""
  return _convolve(x, kernel.astype(x.dtype))


@jax.custom_vjp
def _convolve(x, kernel):
  return _sum(x, kernel)


def _sum(x, kernel):
  # f32: a bfloat16 sum of nine rounds as much as all else in the Mix-FFN.
  wide = jnp.promote_types(x.dtype, jnp.float32)
  taps = kernel.astype(wide)
  return functools.reduce(jnp.add, (
    shifted.astype(wide) * taps[i, j]
    for (i, j), shifted in _shifts(x, kernel.shape[0]))).astype(x.dtype)


def _shifts(x, size):
  """Each position of the kernel with the input that it multiplies."""
  half, (height, width) = size // 2, x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
  for i, j in itertools.product(range(size), range(size)):
    yield (i, j), padded[:, i:i + height, j:j + width]


def _forward(x, kernel):
  return _sum(x, kernel), (x, kernel)


def _backward(residuals, grad):
  x, kernel = residuals
  size, channels = kernel.shape[0], x.shape[-1]
  # As a product with ones: XLA's CPU reduction over the leading axes is an
  # order of magnitude slower than a matrix product. f32: a long sum.
  flat = lambda a: a.astype(jnp.float32).reshape(-1, channels)
  ones = jnp.ones((1, grad.size // channels), jnp.float32)
  kernel_grad = jnp.concatenate([
    ones @ (flat(shifted) * flat(grad)) for _, shifted in _shifts(x, size)])
  return (_sum(grad, kernel[::-1, ::-1]),
          kernel_grad.reshape(kernel.shape).astype(kernel.dtype))


_convolve.defvjp(_forward, _backward)
