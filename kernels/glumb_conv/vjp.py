"""Gated convolution with its gradient on any mesh, from a backend's two parts.

  forward    out = f(x, kernel, bias)
  backward   dx, dkernel, dbias = recomputed from x, kernel, bias and dout

Only x, kernel and bias are kept. On a mesh, the batch and the channels stay
sharded; a and g of one channel stay together. Where rows are sharded, each
device gets its neighbours' rows, zeros at the picture's edge: one of x for the
output; one of dout and two of x for the gradient, because dx needs the gates
of the next rows, and those the rows after them.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec as P

from sana_jax.kernels import sharded


class Parts(NamedTuple):
  """Functions that a backend provides, for one device.

  With `halo`, x and dout include their neighbours' rows on both sides (of x one
  in the forward and two in the backward pass, of dout one), which are not among
  the rows of out and dx. Otherwise they are zero-padded.

  Attributes:
    forward: (x, kernel, bias, halo) -> out, in x's dtype.
    backward: (x, kernel, bias, dout, halo) -> (dx, dkernel, dbias), the latter
      two in float32 and over these rows of x alone.
  """

  forward: Callable
  backward: Callable


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gate(parts: Parts, x, kernel, bias):
  """The gated convolution; `parts` must be hashable."""
  layout = _Layout.of(x)

  def run(x, kernel, bias):
    x, kernel, bias = (_joined(a) for a in (x, kernel, bias))
    return parts.forward(
      sharded.with_neighbours(x, 1, layout.rows),
      kernel,
      bias,
      bool(layout.rows),
    )

  return sharded.on_mesh(
    run, (layout.x, layout.kernel, layout.bias), layout.out
  )(_halves(x), _halves(kernel), _halves(bias))


def _forward(parts, x, kernel, bias):
  return gate(parts, x, kernel, bias), (x, kernel, bias)


def _backward(parts, saved, dout):
  layout = _Layout.of(saved[0])

  def run(x, kernel, bias, dout):
    x, kernel, bias = (_joined(a) for a in (x, kernel, bias))
    dx, dkernel, dbias = parts.backward(
      sharded.with_neighbours(x, 2, layout.rows),
      kernel,
      bias,
      sharded.with_neighbours(dout, 1, layout.rows),
      bool(layout.rows),
    )
    summed = (
      jax.lax.psum((dkernel, dbias), layout.sums)
      if layout.sums
      else (dkernel, dbias)
    )
    return tuple(_halves(a) for a in (dx, *summed))

  grads = sharded.on_mesh(
    run,
    (layout.x, layout.kernel, layout.bias, layout.out),
    (layout.x, layout.kernel, layout.bias),
  )(*(_halves(a) for a in saved), dout)
  return tuple(_joined(g).astype(a.dtype) for g, a in zip(grads, saved))


gate.defvjp(_forward, _backward)


class _Layout(NamedTuple):
  """Sharding of x as [b y x 2 c], and of the arrays derived from it."""

  x: P
  kernel: P
  bias: P
  out: P
  rows: tuple[str, ...]  # The axis over which rows are sharded, if any.
  sums: tuple[str, ...]  # Axes over which weights' gradients are summed.

  @classmethod
  def of(cls, x):
    b, height, _, channels = x.shape
    batch = sharded.axes_of(b, sharded.BATCH)
    rows = sharded.axes_of(height, sharded.SEQUENCE)
    if rows and height // sharded.splits(rows) < 2:  # All from the next device.
      rows = ()
    c = sharded.axes_of(channels // 2, sharded.TENSOR) or None
    picture = (batch or None, rows or None, None)
    return cls(
      P(*picture, None, c),
      P(None, None, None, c),
      P(None, c),
      P(*picture, c),
      rows,
      batch + rows,
    )


def _halves(a):
  """Reshapes [... 2c] to [... 2 c], so that a and g are sharded alike."""
  return a.reshape(*a.shape[:-1], 2, a.shape[-1] // 2)


def _joined(a):
  return a.reshape(*a.shape[:-2], -1)
