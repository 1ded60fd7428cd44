"""Body of the Mosaic GPU kernel of the gated convolution (see mosaic_gpu.py).

A program is one warpgroup: 256 channels of values and their gates, two channels
a thread, and a tile of the picture, of 8 columns (16 would not fit into
registers). It goes down the rows of x, one more above and below. SiLU is
applied to an arriving row, which is added, with its taps, to the three rows of
the result that depend on it; two of these are unfinished after that, and stay
in registers.
"""

import dataclasses

from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from sana_jax.kernels import gpu

CHANNELS, WIDTH, HALVES = 256, 8, 2
TAPS = 10  # Nine taps and the bias.
AXES = 'block', 'tile', 'batch'


@dataclasses.dataclass(frozen=True)
class Plan:
  """Tiling of a picture.

  Attributes:
    rows: rows of a tile.
    across: tiles next to each other.
    down: tiles below each other.
    blocks: blocks of channels of the result.
    c: channels of the result.
    height: rows of the result.
    first: row of x above the first row of the result.
    left: column of x left of the first column of the result.
    behind: offset of a row of x in x from the same row of dout in dout.
    stages: rows in flight or in use.
    interpreted: whether this runs in the interpreter.
  """

  rows: int
  across: int
  down: int
  blocks: int
  c: int
  height: int
  first: int
  left: int
  behind: int
  stages: int
  interpreted: bool


def forward(
  x, taps, out, x_smem, arrived, taps_smem, loaded, out_smem, *, plan: Plan
):
  """value * silu(gate) of depthwise3x3(silu(x)) + bias."""
  block, _, batch = (lax.axis_index(axis) for axis in AXES)
  plgpu.copy_gmem_to_smem(taps.at[block], taps_smem, loaded)
  top, left = corner(plan)

  def fetch(step, slot):
    for half in range(HALVES):
      plgpu.copy_gmem_to_smem(
        x.at[
          batch,
          top + plan.first + step,
          pl.ds(left + plan.left, WIDTH + 2),
          pl.ds(half * plan.c + block * CHANNELS, CHANNELS),
        ],
        x_smem.at[slot, half],
        arrived.at[slot],
      )

  for step in range(plan.stages):
    fetch(step, step)
  plgpu.barrier_wait(loaded)
  taps = [
    [_across(taps_smem, (tap, half), plan) for tap in range(TAPS)]
    for half in range(HALVES)
  ]

  def advance(step, carry):
    slot = lax.rem(step, plan.stages)
    plgpu.barrier_wait(arrived.at[slot])
    done, carry = _row(x_smem, slot, taps, carry, plan)

    @pl.when(step >= 2)
    def _():
      _write(out, done[0] * _silu(done[1]), out_smem, step, plan)

    @pl.when(step + plan.stages < plan.rows + 2)
    def _():
      gpu.release()
      fetch(step + plan.stages, slot)

    return carry

  # The first two rows of the carry are above the tile and never written.
  start = [[bias, bias] for *_, bias in taps]
  lax.fori_loop(0, plan.rows + 2, advance, start)
  plgpu.wait_smem_to_gmem(0)


def _row(x_smem, slot, taps, carry, plan):
  """Adds a row of x: (the finished row above it, the unfinished rows)."""
  done, rest = [], []
  for half in range(HALVES):
    row = strided(x_smem[slot, half], plan).astype(jnp.float32)
    x_smem[slot, half] = _silu(row).astype(x_smem.dtype)
    shifted = [
      strided(x_smem[slot, half, pl.ds(j, WIDTH)], plan).astype(jnp.float32)
      for j in range(3)
    ]
    seen = [
      sum(shifted[j] * taps[half][3 * i + j] for j in range(3))
      for i in range(3)
    ]
    above, here = carry[half]
    done.append(above + seen[2])
    rest.append([here + seen[1], seen[0] + taps[half][-1]])
  return done, rest


def _write(out, result, smem, step, plan):
  """Stores the row two above the one that arrived."""
  block, _, batch = (lax.axis_index(axis) for axis in AXES)
  top, left = corner(plan)
  slot = lax.rem(step, 2)
  plgpu.wait_smem_to_gmem(1, wait_read_only=True)
  smem[slot] = result.astype(smem.dtype)
  plgpu.commit_smem()
  plgpu.copy_smem_to_gmem(
    smem.at[slot],
    out.at[
      batch,
      top + step - 2,
      pl.ds(left, WIDTH),
      pl.ds(block * CHANNELS, CHANNELS),
    ],
  )


def corner(plan):
  """First row and column of this program's part of the result."""
  tile = lax.axis_index('tile')
  return (
    lax.div(tile, plan.across) * plan.rows,
    lax.rem(tile, plan.across) * WIDTH,
  )


def _silu(x):
  return x / (1.0 + jnp.exp(-x))


def strided(x, plan):
  """Loads x [... channels] to registers, each thread with its own channels."""
  return (
    x
    if plan.interpreted
    else plgpu.layout_cast(
      x, plgpu.Layout.WG_STRIDED(x.shape, vec_size=x.shape[-1] // 128)
    )
  )


def _across(ref, at, plan):
  """A row of channels of `ref`, at all columns."""
  return lax.broadcast_in_dim(strided(ref[at], plan), (WIDTH, CHANNELS), (1,))
