"""Gated convolution on TPU: one pass over memory forward, one backward.

A grid step holds some rows of one picture with all their channels and the rows
that they need above and below. 128 channels at a time (the lanes) are read
with their gates, widened, passed through SiLU into a float32 scratch that has
zeros around the picture, and convolved from there: a shift along x is a load
from another sublane. If c is not a multiple of 128, gates do not begin at a
tile of lanes and are shifted into place in registers.

It is bound by the vector unit, not by memory: compiled for v5e, it takes some
45 operations per element of x forward and 95 backward. It is tested in the
interpreter and compiles for v5e, v5p, v6e and tpu7x; it has not run on a chip.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jaxtyping import Array, Float

from sana_jax.kernels import dispatch, sharded, tpu, tuning
from sana_jax.kernels.dispatch import UnsupportedError
from sana_jax.kernels.glumb_conv import mosaic_tpu_body as body
from sana_jax.kernels.glumb_conv import vjp
from sana_jax.kernels.glumb_conv.mosaic_tpu_body import LANES, Tile

CANDIDATES = {'rows': (2, 4, 8, 16, 32, 64)}


def glumb_conv(
  x: Float[Array, 'b y x c2'],
  kernel: Float[Array, '3 3 c2'],
  bias: Float[Array, 'c2'],
  *,
  rows: int | None = None,
  interpret=False,
) -> Float[Array, 'b y x c']:
  """Mixes neighbours and gates; halves the channels; the result has x's dtype.

  A grid step computes `rows` of a picture, by default as many as fit.
  """
  if dispatch.target() != 'tpu' and not interpret:
    raise UnsupportedError(
      f'mosaic_tpu runs on TPUs; the platform is {dispatch.target()}'
    )
  if x.dtype not in (jnp.bfloat16, jnp.float32):
    raise UnsupportedError(f'{x.dtype} is neither bfloat16 nor float32')
  c = x.shape[3] // 2
  c //= sharded.splits(sharded.axes_of(c, sharded.TENSOR))
  # The backward pass needs more VMEM: check now that it fits.
  _tile(jax.ShapeDtypeStruct((*x.shape[:3], 2 * c), x.dtype), rows, False, 2)
  return vjp.gate(_parts(rows, interpret), x, kernel, bias)


@functools.cache
def _parts(rows, interpret):
  return vjp.Parts(
    functools.partial(_forward, rows, interpret),
    functools.partial(_backward, rows, interpret),
  )


def _forward(rows, interpret, x, kernel, bias, halo):
  tile = _tile(x, rows, halo, 1)
  b, c = x.shape[0], tile.channels
  return pl.pallas_call(
    functools.partial(body.forward, tile=tile),
    name='glumb_conv',
    grid=(b, tile.count),
    in_specs=[_rows_spec(tile, 1, 2 * c), _whole(_taps_shape(c))],
    out_specs=_own_spec(tile, c),
    out_shape=jax.ShapeDtypeStruct((b, tile.height, tile.width, c), x.dtype),
    scratch_shapes=[_scratch(tile, 1)],
    cost_estimate=_cost(x, 3, 1),
    compiler_params=_params(tile),
    interpret=interpret,
  )(x, _taps(kernel, bias))


def _backward(rows, interpret, x, kernel, bias, dout, halo):
  tile = _tile(x, rows, halo, 2)
  b, c = x.shape[0], tile.channels
  taps = _taps_shape(c)
  dx, dtaps = pl.pallas_call(
    functools.partial(body.backward, tile=tile),
    name='glumb_conv_backward',
    grid=(b, tile.count),
    in_specs=[_rows_spec(tile, 2, 2 * c), _rows_spec(tile, 1, c), _whole(taps)],
    out_specs=[
      _own_spec(tile, 2 * c),
      pl.BlockSpec((1, *taps), lambda b, i: (b, 0, 0, 0)),
    ],
    out_shape=[
      jax.ShapeDtypeStruct((b, tile.height, tile.width, 2 * c), x.dtype),
      jax.ShapeDtypeStruct((b, *taps), jnp.float32),
    ],
    scratch_shapes=[_scratch(tile, 2), _scratch(tile, 1), _scratch(tile, 1)],
    cost_estimate=_cost(x, 5, 3),
    compiler_params=_params(tile),
    interpret=interpret,
  )(x, dout, _taps(kernel, bias))
  # [b half tap c] -> [tap half*c].
  dtaps = jnp.sum(dtaps, axis=0)[:, :10, :c]
  dtaps = jnp.moveaxis(dtaps, 0, 1).reshape(10, 2 * c)
  return dx, dtaps[:9].reshape(3, 3, 2 * c), dtaps[9]


def _taps_shape(c):
  """Shape of both halves' nine taps and bias, padded to whole tiles."""
  return 2, 16, pl.cdiv(c, LANES) * LANES


def _taps(kernel, bias):
  c = bias.shape[0] // 2
  taps = jnp.concatenate(
    [
      kernel.astype(jnp.float32).reshape(9, 2, c),
      bias.astype(jnp.float32).reshape(1, 2, c),
    ]
  )
  shape = _taps_shape(c)
  return jnp.pad(
    jnp.moveaxis(taps, 1, 0), ((0, 0), (0, shape[1] - 10), (0, shape[2] - c))
  )


def _whole(shape):
  return pl.BlockSpec(shape, lambda b, i: (0,) * len(shape))


def _own_spec(tile, channels):
  return pl.BlockSpec(
    (1, tile.rows, tile.width, channels), lambda b, i: (b, i, 0, 0)
  )


def _rows_spec(tile, reach, channels):
  """BlockSpec of a tile's rows and up to `reach` more on each side."""
  shape = (1, tile.block(reach), tile.width, channels)
  return pl.BlockSpec(
    tuple(pl.Element(n) for n in shape),
    lambda b, i: (b, tile.start(i, reach), 0, 0),
    pipeline_mode=pl.Buffered(tile.buffers),
  )


def _scratch(tile, reach):
  """Zero-padded float32 scratch for both halves of 128 channels."""
  return pltpu.VMEM(
    (2, tile.rows + 2 * reach, tile.padded_width, LANES), jnp.float32
  )


def _cost(x, halves, convolutions):
  """Cost estimate; `halves` arrays of half of x's size are read or written."""
  return pl.CostEstimate(
    flops=18 * x.size * convolutions,
    bytes_accessed=x.size // 2 * halves * x.dtype.itemsize,
    transcendentals=x.size * 3 // 2,
  )


def _params(tile):
  # A picture's tiles run in order: they sum the weights' gradients.
  return pltpu.CompilerParams(
    dimension_semantics=('parallel', 'arbitrary'),
    vmem_limit_bytes=tpu.vmem_bytes(),
  )


def _tile(x, rows, halo, reach):
  """Tile with the requested rows, or the most that fit, split evenly."""
  _, height, width, channels = x.shape
  tile = functools.partial(
    Tile,
    height=height - 2 * reach * halo,
    width=width,
    channels=channels // 2,
    halo=halo,
  )
  height, limit = tile(rows=1).height, tpu.vmem_bytes() - tpu.SPARE
  rows = (
    rows
    or tuning.choose(
      'glumb_conv',
      'mosaic_tpu',
      reach == 2,
      (x.shape[0], height, width, channels),
      x.dtype,
      rows=0,
    )['rows']
  )

  def size(rows, buffers):
    return tile(rows=rows, buffers=buffers).vmem_bytes(reach, x.dtype.itemsize)

  for buffers in (2, 1):
    fitting = [n for n in range(1, height + 1) if size(n, buffers) <= limit]
    if fitting:
      most = fitting[-1]
      rows = rows or pl.cdiv(height, pl.cdiv(height, most))
      return tile(rows=min(rows, most), buffers=buffers)
  raise UnsupportedError(
    f'a row of {width} x {channels} {x.dtype} with its neighbours needs '
    f'{size(1, 1) / tpu.MIB:.0f} MiB of VMEM; available are '
    f'{limit / tpu.MIB:.0f}'
  )
