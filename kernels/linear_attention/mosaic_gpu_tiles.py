"""Tiles and matrices of the kernels of linear attention on Mosaic GPU.

`Plan` is the tiling of a call. The functions load tiles of 64 tokens and
matrices [parts, i, j, 64, 64] into shared memory, multiply them and store
results; the bodies in mosaic_gpu_kernels.py call them.
"""

import dataclasses

from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from sana_jax.kernels import gpu

PARTS = 2
AXES = 'group', 'split', 'batch'


@dataclasses.dataclass(frozen=True)
class Plan:
  """Tiling of a call; see mosaic_gpu.py for the choice.

  Attributes:
    head: columns of a head.
    blocks: blocks of columns in a group.
    steps: tiles of a program.
    stages: tiles in flight or in use.
    interpreted: whether this runs in the interpreter.
  """

  head: int
  blocks: int
  groups: int
  splits: int
  steps: int
  stages: int
  interpreted: bool

  @property
  def pairs(self):
    """Indices (i, j) of all blocks of a matrix."""
    return [(i, j) for i in range(self.blocks) for j in range(self.blocks)]


def over_tiles(inputs, arrived, plan, body, carry):
  """Loops carry = body(step, slot, carry) over `inputs` (gmem, smem) tiles."""

  def fetch(step, slot):
    for x, smem in inputs:
      for i in range(plan.blocks):
        plgpu.copy_gmem_to_smem(
          x.at[_tile(step, i, plan)],
          gpu.for_tma(smem, (slot, i), plan.interpreted),
          arrived.at[slot],
        )

  for step in range(plan.stages):
    fetch(step, step)

  def advance(step, carry):
    slot = lax.rem(step, plan.stages)
    plgpu.barrier_wait(arrived.at[slot])
    carry = body(step, slot, carry)

    @pl.when(step + plan.stages < plan.steps)
    def _():
      gpu.release()
      fetch(step + plan.stages, slot)

    return carry

  return lax.fori_loop(0, plan.steps, advance, carry)


def _tile(step, block, plan):
  """Index of a block of this tile in [b n h*d]; may be out of bounds."""
  group, split, batch = (lax.axis_index(axis) for axis in AXES)
  token = (split * plan.steps + step) * gpu.ROWS
  column = (group * plan.blocks + block) * gpu.COLUMNS
  return batch, pl.ds(token, gpu.ROWS), pl.ds(column, gpu.COLUMNS)


def load_state(matrices, row, row_smem, loaded, plan):
  """Copies matrices to shared memory; returns the row, block by block."""
  group, _, batch = (lax.axis_index(axis) for axis in AXES)
  for matrix, smem in matrices:
    for part in range(PARTS):
      for i, j in plan.pairs:
        plgpu.copy_gmem_to_smem(
          matrix.at[batch, group, part, i, j], smem.at[part, i, j], loaded
        )
  plgpu.copy_gmem_to_smem(row.at[batch, group], row_smem, loaded)
  plgpu.barrier_wait(loaded)
  shape = gpu.ROWS, gpu.COLUMNS
  return [
    lax.broadcast_in_dim(
      gpu.laid_out(row_smem[i], plan.interpreted, over=0), shape, (1,)
    )
    for i in range(plan.blocks)
  ]


def accumulators(plan):
  block = plgpu.ACC((gpu.ROWS, gpu.COLUMNS), jnp.float32)
  return [[block] * plan.blocks] * plan.blocks


def zeros(plan):
  zero = jnp.zeros((gpu.ROWS, gpu.COLUMNS), jnp.float32)
  return [gpu.laid_out(zero, plan.interpreted)] * plan.blocks


def add_products(accumulators, x_smem, matrix_smem, slot, plan):
  """accumulators[j] += x[i] (sum of parts of matrix[i, j])."""
  for part in range(PARTS):
    for i, j in plan.pairs:
      plgpu.wgmma(
        accumulators[j], x_smem.at[slot, i], matrix_smem.at[part, i, j]
      )


def add_over_tokens(accumulators, a_smem, b_smem, slot, plan):
  """accumulators[i][j] += a[i]^T b[j]; b may have no slots."""
  b_smem = b_smem.at[slot] if len(b_smem.shape) == 4 else b_smem
  for i, j in plan.pairs:
    gpu.add_products_over_rows(
      accumulators[i][j], a_smem.at[slot, i], b_smem.at[j], plan.interpreted
    )


def inverse(q, z, eps, plan):
  """1 / (q z + eps) of each token and head, in all of the head's columns."""
  return 1.0 / (over_heads([a * b for a, b in zip(q, z)], plan) + eps)


def over_heads(products, plan):
  """Sum over a head's columns, repeated in each of them."""
  shape = gpu.ROWS, gpu.COLUMNS
  spread = lambda x: lax.broadcast_in_dim(jnp.sum(x, axis=1), shape, (0,))
  if plan.head >= gpu.COLUMNS:
    return spread(sum(products[1:], products[0]))
  assert (plan.head, len(products)) == (32, 1)
  first = (
    gpu.laid_out(lax.broadcasted_iota(jnp.int32, shape, 1), plan.interpreted)
    < plan.head
  )
  return jnp.where(
    first,
    spread(jnp.where(first, products[0], 0.0)),
    spread(jnp.where(first, 0.0, products[0])),
  )


def write_tile(outputs, smem, step, plan):
  """Stores (gmem, blocks) of a tile; two tiles may be in flight."""
  slot = lax.rem(step, 2)
  places = [(o, i) for o in range(len(outputs)) for i in range(plan.blocks)]
  plgpu.wait_smem_to_gmem(len(places), wait_read_only=True)
  for o, i in places:
    smem[slot, o, i] = outputs[o][1][i].astype(smem.dtype)
  plgpu.commit_smem()
  for o, i in places:
    plgpu.copy_smem_to_gmem(
      gpu.for_tma(smem, (slot, o, i), plan.interpreted),
      outputs[o][0].at[_tile(step, i, plan)],
    )


def write_state(
  running, accumulated, sums, totals, sums_smem, totals_smem, plan
):
  group, split, batch = (lax.axis_index(axis) for axis in AXES)
  for i, j in plan.pairs:
    sums_smem[i, j] = accumulated[i][j]
  for i in range(plan.blocks):
    totals_smem[i] = jnp.sum(running[i], axis=0)
  plgpu.commit_smem()
  for i, j in plan.pairs:
    plgpu.copy_smem_to_gmem(
      sums_smem.at[i, j], sums.at[split, batch, group, i, j]
    )
  plgpu.copy_smem_to_gmem(totals_smem, totals.at[split, batch, group])
  plgpu.wait_smem_to_gmem(0)
