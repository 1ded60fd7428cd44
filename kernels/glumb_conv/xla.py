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
  return _gate(depthwise_conv(jax.nn.silu(x), kernel), bias)


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
  # float32: gradients, too, are sums.
  y = _sum(_wide(jax.nn.silu(x)), kernel.astype(x.dtype))
  value, gate = _halves(y, bias)
  return (value * jax.nn.silu(gate)).astype(x.dtype)


def _halves(y, bias):
  """What is gated and its gate, in float32."""
  return jnp.split(_wide(y) + _wide(bias), 2, axis=-1)


@jax.custom_vjp
def _gate(y, bias):
  value, gate = _halves(y, bias)
  return (value * jax.nn.silu(gate)).astype(y.dtype)


def _gate_forward(y, bias):
  return _gate(y, bias), (y, bias)


def _gate_backward(residuals, grad):
  """From y alone: JAX would keep float32 intermediates."""
  y, bias = residuals
  value, gate = _halves(y, bias)
  open_ = jax.nn.sigmoid(gate)
  grad = _wide(grad)
  grad = jnp.concatenate([
    grad * gate * open_,
    grad * value * open_ * (1 + gate * (1 - open_))], axis=-1).astype(y.dtype)
  return grad, _column_sums(_wide(grad)).astype(bias.dtype)


_gate.defvjp(_gate_forward, _gate_backward)


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
  taps = _wide(kernel)
  return functools.reduce(jnp.add, (
    _wide(shifted) * taps[i, j]
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
  kernel_grad = jnp.stack([_column_sums(_wide(shifted) * _wide(grad))
                           for _, shifted in _shifts(x, kernel.shape[0])])
  return (_sum(grad, kernel[::-1, ::-1]),
          kernel_grad.reshape(kernel.shape).astype(kernel.dtype))


def _wide(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _column_sums(x):
  """Sums over all axes but the last."""
  # As a product with ones: XLA's CPU reduction over the leading axes is an
  # order of magnitude slower than a matrix product.
  x = x.reshape(-1, x.shape[-1])
  return jnp.ones(x.shape[:1], x.dtype) @ x


_convolve.defvjp(_forward, _backward)
