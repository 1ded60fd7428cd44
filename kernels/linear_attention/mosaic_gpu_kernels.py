"""Bodies of the Mosaic GPU kernels of linear attention (see mosaic_gpu.py).

A program is one warpgroup. It has a sample (`batch`), a `group` of heads and a
`split` of the tokens, and goes over tiles of 64 tokens. A tile of a group is a
block of 64 columns (two heads of 32, or one of 64) or two (a head of 128).
Matrices are [parts, i, j, 64, 64] from columns i to columns j, and zero between
heads; two bfloat16 parts, which are added, hold 16 bits of a float32.
"""

import dataclasses

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from sana_jax.kernels import gpu

PARTS = 2
AXES = 'group', 'split', 'batch'


@dataclasses.dataclass(frozen=True)
class Plan:
  """How a call is cut; see mosaic_gpu.py for the choice.

  Attributes:
    head: columns of a head.
    blocks: blocks of columns in a group.
    steps: tiles of a program.
    stages: tiles that are on their way or in use.
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
    """(i, j) of all blocks of a matrix."""
    return [(i, j) for i in range(self.blocks) for j in range(self.blocks)]


def state(
  k,
  v,
  sums,
  totals,
  k_smem,
  v_smem,
  arrived,
  sums_smem,
  totals_smem,
  *,
  plan: Plan,
):
  """relu(k)^T v and the sum of relu(k), of this program's tokens."""

  def body(slot, running, accumulators):
    for i in range(plan.blocks):
      k_smem[slot, i] = jnp.maximum(k_smem[slot, i], 0)
    plgpu.commit_smem()
    _add_over_tokens(accumulators, k_smem, v_smem, slot, plan)
    # Summed over tokens once, at the end: until then, tile onto tile.
    running = [
      total + k_smem[slot, i].astype(jnp.float32)
      for i, total in enumerate(running)
    ]
    plgpu.wgmma_wait(0)
    return running

  def scope(accumulators):
    running = _over_tiles(
      [(k, k_smem), (v, v_smem)],
      arrived,
      plan,
      lambda step, slot, running: body(slot, running, accumulators),
      _zeros(plan),
    )
    return running, jax.tree.map(lambda a: a[...], accumulators)

  _write_state(
    *pl.run_scoped(scope, _accumulators(plan)),
    sums,
    totals,
    sums_smem,
    totals_smem,
    plan,
  )


def read(
  q,
  matrix,
  row,
  out,
  q_smem,
  arrived,
  matrix_smem,
  row_smem,
  loaded,
  out_smem,
  *,
  plan: Plan,
  eps: float,
):
  """relu(q) S / (relu(q) z + eps), of this program's tokens."""
  z = _load_state([(matrix, matrix_smem)], row, row_smem, loaded, plan)

  def body(step, slot, _):
    for i in range(plan.blocks):
      q_smem[slot, i] = jnp.maximum(q_smem[slot, i], 0)
    plgpu.commit_smem()

    def scope(accumulators):
      _add_products(accumulators, q_smem, matrix_smem, slot, plan)
      q = [q_smem[slot, i].astype(jnp.float32) for i in range(plan.blocks)]
      scale = _inverse(q, z, eps, plan)
      return [a[...] * scale for a in accumulators]

    _write_tile(
      [(out, pl.run_scoped(scope, _accumulators(plan)[0]))],
      out_smem,
      step,
      plan,
    )
    return _

  _over_tiles([(q, q_smem)], arrived, plan, body, None)
  plgpu.wait_smem_to_gmem(0)


def read_backward(
  q,
  dout,
  matrix,
  row,
  dq,
  sums,
  totals,
  q_smem,
  dout_smem,
  arrived,
  matrix_smem,
  row_smem,
  loaded,
  out_smem,
  scaled_smem,
  sums_smem,
  totals_smem,
  *,
  plan: Plan,
  eps: float,
):
  """dq, and this program's part of the gradients of S and z.

  With g = dout S^T, which `matrix` is for, and 1/(relu(q) z + eps) = scale,
  dout . out = scale relu(q) . g: neither S nor the output is needed.
  """
  z = _load_state([(matrix, matrix_smem)], row, row_smem, loaded, plan)

  def body(step, slot, running, accumulators):
    for i in range(plan.blocks):
      q_smem[slot, i] = jnp.maximum(q_smem[slot, i], 0)
    plgpu.commit_smem()

    def scope(products):
      _add_products(products, dout_smem, matrix_smem, slot, plan)
      return [p[...] for p in products]

    g = pl.run_scoped(scope, _accumulators(plan)[0])
    q = [q_smem[slot, i].astype(jnp.float32) for i in range(plan.blocks)]
    scale = _inverse(q, z, eps, plan)
    slope = scale * _over_heads([a * b for a, b in zip(q, g)], plan)
    for j in range(plan.blocks):
      scaled = dout_smem[slot, j].astype(jnp.float32) * scale
      scaled_smem[j] = scaled.astype(scaled_smem.dtype)
    plgpu.commit_smem()
    _add_over_tokens(accumulators, q_smem, scaled_smem, slot, plan)
    found = [
      jnp.where(x > 0, scale * (g_ - slope * z_), 0.0)
      for x, g_, z_ in zip(q, g, z)
    ]
    running = [total - x * (slope * scale) for x, total in zip(q, running)]
    plgpu.wgmma_wait(0)
    _write_tile([(dq, found)], out_smem, step, plan)
    return running

  def scope(accumulators):
    running = _over_tiles(
      [(q, q_smem), (dout, dout_smem)],
      arrived,
      plan,
      lambda *args: body(*args, accumulators),
      _zeros(plan),
    )
    return running, jax.tree.map(lambda a: a[...], accumulators)

  _write_state(
    *pl.run_scoped(scope, _accumulators(plan)),
    sums,
    totals,
    sums_smem,
    totals_smem,
    plan,
  )


def state_backward(
  k,
  v,
  matrix,
  transposed,
  row,
  dk,
  dv,
  k_smem,
  v_smem,
  arrived,
  matrix_smem,
  transposed_smem,
  row_smem,
  loaded,
  out_smem,
  *,
  plan: Plan,
):
  """dv = relu(k) dS and dk = v dS^T + dz where k > 0."""
  dz = _load_state(
    [(matrix, matrix_smem), (transposed, transposed_smem)],
    row,
    row_smem,
    loaded,
    plan,
  )

  def body(step, slot, _):
    for i in range(plan.blocks):
      k_smem[slot, i] = jnp.maximum(k_smem[slot, i], 0)
    plgpu.commit_smem()

    def scope(of_v, of_k):
      _add_products(of_v, k_smem, matrix_smem, slot, plan)
      _add_products(of_k, v_smem, transposed_smem, slot, plan)
      positive = [
        k_smem[slot, i].astype(jnp.float32) > 0 for i in range(plan.blocks)
      ]
      return [a[...] for a in of_v], [
        jnp.where(at, a[...] + z, 0.0) for at, a, z in zip(positive, of_k, dz)
      ]

    found_v, found_k = pl.run_scoped(scope, *_accumulators(plan)[:1] * 2)
    _write_tile([(dk, found_k), (dv, found_v)], out_smem, step, plan)
    return _

  _over_tiles([(k, k_smem), (v, v_smem)], arrived, plan, body, None)
  plgpu.wait_smem_to_gmem(0)


def _over_tiles(inputs, arrived, plan, body, carry):
  """carry = body(step, slot, carry) for each tile of `inputs` (gmem, smem)."""

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
  """Where a block of this program's tile lies in [b n h*d]; maybe beyond it."""
  group, split, batch = (lax.axis_index(axis) for axis in AXES)
  token = (split * plan.steps + step) * gpu.ROWS
  column = (group * plan.blocks + block) * gpu.COLUMNS
  return batch, pl.ds(token, gpu.ROWS), pl.ds(column, gpu.COLUMNS)


def _load_state(matrices, row, row_smem, loaded, plan):
  """Brings matrices into shared memory; returns the row, block by block."""
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


def _accumulators(plan):
  block = plgpu.ACC((gpu.ROWS, gpu.COLUMNS), jnp.float32)
  return [[block] * plan.blocks] * plan.blocks


def _zeros(plan):
  zero = jnp.zeros((gpu.ROWS, gpu.COLUMNS), jnp.float32)
  return [gpu.laid_out(zero, plan.interpreted)] * plan.blocks


def _add_products(accumulators, x_smem, matrix_smem, slot, plan):
  """accumulators[j] += x[i] (sum of parts of matrix[i, j])."""
  for part in range(PARTS):
    for i, j in plan.pairs:
      plgpu.wgmma(
        accumulators[j], x_smem.at[slot, i], matrix_smem.at[part, i, j]
      )


def _add_over_tokens(accumulators, a_smem, b_smem, slot, plan):
  """accumulators[i][j] += a[i]^T b[j]; b may have no slots."""
  b_smem = b_smem.at[slot] if len(b_smem.shape) == 4 else b_smem
  for i, j in plan.pairs:
    gpu.add_products_over_rows(
      accumulators[i][j], a_smem.at[slot, i], b_smem.at[j], plan.interpreted
    )


def _inverse(q, z, eps, plan):
  """1 / (q z + eps) of each token and head, at all of the head's columns."""
  return 1.0 / (_over_heads([a * b for a, b in zip(q, z)], plan) + eps)


def _over_heads(products, plan):
  """The sum over a head's columns, at each of them."""
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


def _write_tile(outputs, smem, step, plan):
  """Stores (gmem, blocks) of a tile; two tiles may be on their way."""
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


def _write_state(
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
