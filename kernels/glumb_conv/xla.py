"""Gated convolution of SANA's Mix-FFN (GLUMBConv), the definition in plain XLA.

  a, g = split(depthwise3x3(silu(x)) + bias);   y = a * silu(g)

(SANA, arXiv:2410.10629, section 2.2; the order of the operations is the
code's: SiLU comes before the convolution.) The depthwise convolution is
written as k*k shifted multiply-adds: XLA's grouped convolution is 3 to 11
times slower on CPU, and elsewhere the shifts fuse with their neighbours.

The derivatives are written as tangents whose transpose is the fast backward
pass, so that forward and reverse mode both work, under vmap too.
"""

import functools
import itertools
import math

import jax
from jax import custom_derivatives
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

  `interpret` is ignored: only kernels use it.
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
  """`glumb_conv`, faster in forward mode, as in Sprint's consistency loss.

  Its derivatives are JAX's own: half the time of `glumb_conv` in `jax.jvp`, and
  twice the memory of its backward pass (measured on a CPU).
  """
  del interpret
  # float32: gradients are sums, too.
  y = _sum(_wide(jax.nn.silu(x)), kernel.astype(x.dtype))
  value, gate = _halves(y, bias)
  return (value * jax.nn.silu(gate)).astype(x.dtype)


def _halves(y, bias):
  """Value and gate, in float32."""
  return jnp.split(_wide(y) + _wide(bias), 2, axis=-1)


@jax.custom_jvp
def _gate(y, bias):
  value, gate = _halves(y, bias)
  return (value * jax.nn.silu(gate)).astype(y.dtype)


def _gate_tangent(y, bias, y_dot, bias_dot):
  value, gate = _halves(y, bias)
  sigmoid = jax.nn.sigmoid(gate)
  dots = [] if y_dot is None else [_wide(y_dot)]
  if bias_dot is not None:
    dots.append(_rows(_wide(bias_dot), y.shape))
  value_dot, gate_dot = jnp.split(_sum_of(dots), 2, axis=-1)
  return (
    value_dot * (gate * sigmoid)
    + gate_dot * (value * sigmoid * (1 + gate * (1 - sigmoid)))
  ).astype(y.dtype)


def depthwise_conv(
  x: Float[Array, 'b y x c'], kernel: Float[Array, 'k k c']
) -> Float[Array, 'b y x c']:
  """Convolves each channel with its own odd k x k kernel; zero padding."""
  return _convolve(x, kernel.astype(x.dtype))


@jax.custom_jvp
def _convolve(x, kernel):
  return _sum(x, kernel)


def _convolve_tangent(x, kernel, x_dot, kernel_dot):
  dots = [] if x_dot is None else [_spread(x_dot, kernel)]
  if kernel_dot is not None:
    taps = _wide(kernel_dot)
    dots.append(
      _sum_of(
        [
          _wide(shifted) * _rows(taps[i, j], x.shape)
          for (i, j), shifted in _shifts(x, kernel.shape[0])
        ]
      )
    )
  return _sum_of(dots).astype(x.dtype)


def _spread(x, kernel):
  """`_sum(x, kernel)` in float32 as nine padded terms, cropped.

  The transpose of this form pads once and takes nine slices, which is as fast
  as the convolution itself; the transpose of `_sum` pads nine times.
  """
  size, taps, (height, width) = kernel.shape[0], _wide(kernel), x.shape[1:3]
  half = size // 2
  padded = _sum_of(
    [
      jnp.pad(
        _wide(x) * taps[i, j],
        ((0, 0), (size - 1 - i, i), (size - 1 - j, j), (0, 0)),
      )
      for i, j in itertools.product(range(size), range(size))
    ]
  )
  return padded[:, half : half + height, half : half + width]


def _sum(x, kernel):
  # f32: a bfloat16 sum of nine rounds as much as the rest of the Mix-FFN.
  taps = _wide(kernel)
  return functools.reduce(
    jnp.add,
    (
      _wide(shifted) * taps[i, j]
      for (i, j), shifted in _shifts(x, kernel.shape[0])
    ),
  ).astype(x.dtype)


def _shifts(x, size):
  """Pairs of a kernel position and the input that it multiplies."""
  half, (height, width) = size // 2, x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
  for i, j in itertools.product(range(size), range(size)):
    yield (i, j), padded[:, i : i + height, j : j + width]


def _wide(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sum_of(terms):
  return functools.reduce(jnp.add, terms)


def _rows(row, shape):
  """Broadcasts `row` to each position; transposed, the sum over all positions.

  A matmul with ones: XLA's CPU reduction over the leading axes, which the
  transpose of a broadcast is, is an order of magnitude slower.
  """
  ones = jnp.ones((math.prod(shape[:-1]), 1), row.dtype)
  return (ones @ row[None]).reshape(shape)


def _define_jvp(f, tangent):
  """Sets the derivative of `f`, both ways, to `tangent(*primals, *tangents)`.

  A tangent is None where an argument is constant. Only the primals are kept for
  the backward pass, which recomputes the coefficients of the tangent: JAX would
  keep float32 arrays of the size of `x`, nine for the convolution.
  """

  def rule(primals, tangents):
    known = [
      None if isinstance(t, custom_derivatives.SymbolicZero) else t
      for t in tangents
    ]
    recomputed = jax.checkpoint(
      tangent,
      policy=jax.checkpoint_policies.nothing_saveable,
      prevent_cse=False,
    )
    return f(*primals), recomputed(*primals, *known)

  f.defjvp(rule, symbolic_zeros=True)


_define_jvp(_gate, _gate_tangent)
_define_jvp(_convolve, _convolve_tangent)
