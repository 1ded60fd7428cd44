"""Body of the Mosaic GPU kernel of the gradient (see mosaic_gpu.py).

A program is one warpgroup with 128 channels of values and their gates, one a
thread, and a tile of 8 columns. With d for the gradient of the gate's input,
depthwise3x3(silu(x)) + bias, a row r of x that arrives completes

  the convolution of row r - 1, and d of it with that row of dout;
  the gradient of silu(x) of row r - 2, from d of rows r - 3 to r - 1.

So the tile needs two more rows and columns of x on each side, one of dout.
Unfinished rows and the sums of the taps' gradients stay in registers; XLA adds
up the tiles.
"""

import functools

from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from sana_jax.kernels import gpu
from sana_jax.kernels.glumb_conv.mosaic_gpu_kernels import (
  AXES,
  corner,
  HALVES,
  Plan,
  strided,
  TAPS,
  WIDTH,
)

CHANNELS = 128
KEPT = 3  # Rows of silu(x) that one row of d depends on.
MORE = 4  # Rows of x beside the tile's.
BIAS = TAPS - 1


def backward(
  x,
  dout,
  taps,
  dx,
  sums,
  x_smem,
  dout_smem,
  arrived,
  taps_smem,
  loaded,
  silu_smem,
  d_smem,
  dx_smem,
  sums_smem,
  *,
  plan: Plan,
):
  """dx, and the gradients of taps and bias summed over the tile."""
  block, tile, batch = (lax.axis_index(axis) for axis in AXES)
  plgpu.copy_gmem_to_smem(taps.at[block], taps_smem, loaded)
  top, _ = corner(plan)
  fetch = functools.partial(_fetch, x, dout, x_smem, dout_smem, arrived, plan)
  for step in range(plan.stages):
    fetch(step, step)
  zero = strided(jnp.zeros((WIDTH + MORE, CHANNELS), silu_smem.dtype), plan)
  for at in range(KEPT):
    for half in range(HALVES):
      silu_smem[at, half] = zero  # Uninitialised memory may hold NaN.
  plgpu.barrier_wait(loaded)
  tap = lambda half, i, width: lax.broadcast_in_dim(
    strided(taps_smem[i, half], plan), (width, CHANNELS), (1,)
  )

  def advance(step, carry):
    conv, grad, totals = carry
    slot = lax.rem(step, plan.stages)
    plgpu.barrier_wait(arrived.at[slot])
    done, conv = _convolve(x_smem, silu_smem, slot, step, conv, tap, plan)
    _differentiate(done, dout_smem, d_smem, slot, plan)
    totals = _count(totals, d_smem, silu_smem, step, top, plan)
    found, grad = _spread(d_smem, grad, tap, plan)
    # The finished row of x arrived two steps ago.
    past = lax.rem(step + plan.stages - 2, plan.stages)

    @pl.when(step >= MORE)
    def _():
      _write(dx, found, x_smem, dx_smem, past, step, plan)

    @pl.when((step >= 2) & (step - 2 + plan.stages < plan.rows + MORE))
    def _():
      gpu.release()
      fetch(step - 2 + plan.stages, past)

    return conv, grad, totals

  *_, totals = lax.fori_loop(
    0, plan.rows + MORE, advance, _unfinished(tap, plan)
  )
  for half in range(HALVES):
    for i in range(TAPS):
      sums_smem[i, half] = totals[half][i]
  plgpu.commit_smem()
  plgpu.copy_smem_to_gmem(sums_smem, sums.at[batch, tile, block])
  plgpu.wait_smem_to_gmem(0)


def _fetch(x, dout, x_smem, dout_smem, arrived, plan, step, slot):
  """Starts the copies of a row of x and of the matching row of dout."""
  block, _, batch = (lax.axis_index(axis) for axis in AXES)
  top, left = corner(plan)
  for half in range(HALVES):
    plgpu.copy_gmem_to_smem(
      x.at[
        batch,
        top + plan.first + step,
        pl.ds(left + plan.left, WIDTH + MORE),
        pl.ds(half * plan.c + block * CHANNELS, CHANNELS),
      ],
      x_smem.at[slot, half],
      arrived.at[slot],
    )
  # dout has one row and column less beside the tile than x.
  plgpu.copy_gmem_to_smem(
    dout.at[
      batch,
      top + plan.first + step - 1 + plan.behind,
      pl.ds(left + plan.left + 1, WIDTH + 2),
      pl.ds(block * CHANNELS, CHANNELS),
    ],
    dout_smem.at[slot],
    arrived.at[slot],
  )


def _unfinished(tap, plan):
  """Initial carry over rows: (conv, grad, totals)."""
  none = strided(jnp.zeros((WIDTH, CHANNELS), jnp.float32), plan)
  nothing = strided(jnp.zeros((CHANNELS,), jnp.float32), plan)
  return (
    [[tap(half, BIAS, WIDTH + 2)] * 2 for half in range(HALVES)],
    [[none] * 2] * HALVES,
    [[nothing] * TAPS] * HALVES,
  )


def _convolve(x_smem, silu_smem, slot, step, carry, tap, plan):
  """Adds a row of x: (the finished row of the convolution, the rest)."""
  done, rest, now = [], [], lax.rem(step, KEPT)
  for half in range(HALVES):
    row = strided(x_smem[slot, half], plan).astype(jnp.float32)
    silu_smem[now, half] = (row * _sigmoid(row)).astype(silu_smem.dtype)
    shifted = [
      strided(silu_smem[now, half, pl.ds(j, WIDTH + 2)], plan).astype(
        jnp.float32
      )
      for j in range(3)
    ]
    seen = [
      sum(shifted[j] * tap(half, 3 * i + j, WIDTH + 2) for j in range(3))
      for i in range(3)
    ]
    above, here = carry[half]
    done.append(above + seen[2])
    rest.append([here + seen[1], seen[0] + tap(half, BIAS, WIDTH + 2)])
  return done, rest


def _differentiate(done, dout_smem, d_smem, slot, plan):
  """Gradient of value * silu(gate), zero where dout is zero."""
  value, gate = done
  dout = strided(dout_smem[slot], plan).astype(jnp.float32)
  sigmoid = _sigmoid(gate)
  d_smem[0] = dout * gate * sigmoid
  d_smem[1] = dout * value * sigmoid * (1.0 + gate * (1.0 - sigmoid))


def _spread(d_smem, carry, tap, plan):
  """Adds a row of d: (the finished row of silu(x)'s gradient, the rest)."""
  done, rest = [], []
  for half in range(HALVES):
    shifted = [
      strided(d_smem[half, pl.ds(2 - j, WIDTH)], plan) for j in range(3)
    ]
    seen = [
      sum(shifted[j] * tap(half, 3 * i + j, WIDTH) for j in range(3))
      for i in range(3)
    ]
    above, here = carry[half]
    done.append(above + seen[0])
    rest.append([here + seen[1], seen[2]])
  return done, rest


def _count(totals, d_smem, silu_smem, step, top, plan):
  """Adds this row's part to the taps' gradients, if it is the tile's own."""
  row = step - (MORE - 1)
  own = (row >= 0) & (row < plan.rows) & (top + row < plan.height)
  own = jnp.where(own, 1.0, 0.0).astype(jnp.float32)
  found = []
  for half in range(HALVES):
    d = [
      strided(d_smem[half, 1 + column], plan) * own for column in range(WIDTH)
    ]
    met = list(totals[half])
    for i in range(KEPT):
      at = lax.rem(step + 1 + i, KEPT)
      for column in range(WIDTH + 2):
        seen = strided(silu_smem[at, half, 1 + column], plan).astype(
          jnp.float32
        )
        for j in range(3):
          if 0 <= column - j < WIDTH:
            met[3 * i + j] += d[column - j] * seen
    met[BIAS] += sum(d)
    found.append(met)
  return found


def _write(dx, found, x_smem, smem, past, step, plan):
  block, _, batch = (lax.axis_index(axis) for axis in AXES)
  top, left = corner(plan)
  slot = lax.rem(step, 2)
  plgpu.wait_smem_to_gmem(HALVES, wait_read_only=True)
  for half in range(HALVES):
    x = strided(x_smem[past, half, pl.ds(2, WIDTH)], plan).astype(jnp.float32)
    sigmoid = _sigmoid(x)
    grad = found[half] * sigmoid * (1.0 + x * (1.0 - sigmoid))
    smem[slot, half] = grad.astype(smem.dtype)
  plgpu.commit_smem()
  for half in range(HALVES):
    plgpu.copy_smem_to_gmem(
      smem.at[slot, half],
      dx.at[
        batch,
        top + step - MORE,
        pl.ds(left, WIDTH),
        half,
        pl.ds(block * CHANNELS, CHANNELS),
      ],
    )


def _sigmoid(x):
  return 1.0 / (1.0 + jnp.exp(-x))
