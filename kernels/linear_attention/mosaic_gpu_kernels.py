"""Bodies of the Mosaic GPU kernels of linear attention (see mosaic_gpu.py).

A program is one warpgroup. It has a sample (`batch`), a `group` of heads and a
`split` of the tokens, and loops over tiles of 64 tokens. A tile of a group is a
block of 64 columns (two heads of 32, or one of 64) or two (a head of 128).
Matrices are [parts, i, j, 64, 64] from columns i to columns j, and zero between
heads; two bfloat16 parts, which are added, hold 16 bits of a float32.
"""

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from sana_jax.kernels.linear_attention import mosaic_gpu_tiles as tiles
from sana_jax.kernels.linear_attention.mosaic_gpu_tiles import Plan


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
  """Sums of relu(k)^T v and of relu(k) over this program's tokens."""

  def body(slot, running, accumulators):
    _rectify(k_smem, slot, plan)
    tiles.add_over_tokens(accumulators, k_smem, v_smem, slot, plan)
    # Tiles are added elementwise and summed over tokens once, at the end.
    running = [
      total + k_smem[slot, i].astype(jnp.float32)
      for i, total in enumerate(running)
    ]
    plgpu.wgmma_wait(0)
    return running

  def scope(accumulators):
    running = tiles.over_tiles(
      [(k, k_smem), (v, v_smem)],
      arrived,
      plan,
      lambda step, slot, running: body(slot, running, accumulators),
      tiles.zeros(plan),
    )
    return running, jax.tree.map(lambda a: a[...], accumulators)

  tiles.write_state(
    *pl.run_scoped(scope, tiles.accumulators(plan)),
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
  """relu(q) S / (relu(q) z + eps) for this program's tokens."""
  z = tiles.load_state([(matrix, matrix_smem)], row, row_smem, loaded, plan)

  def body(step, slot, _):
    _rectify(q_smem, slot, plan)

    def scope(accumulators):
      tiles.add_products(accumulators, q_smem, matrix_smem, slot, plan)
      q = [q_smem[slot, i].astype(jnp.float32) for i in range(plan.blocks)]
      scale = tiles.inverse(q, z, eps, plan)
      return [a[...] * scale for a in accumulators]

    tiles.write_tile(
      [(out, pl.run_scoped(scope, tiles.accumulators(plan)[0]))],
      out_smem,
      step,
      plan,
    )
    return _

  tiles.over_tiles([(q, q_smem)], arrived, plan, body, None)
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

  With g = dout S^T, computed from `matrix`, and 1/(relu(q) z + eps) = scale,
  dout . out = scale relu(q) . g: neither S nor the output is needed.
  """
  z = tiles.load_state([(matrix, matrix_smem)], row, row_smem, loaded, plan)

  def body(step, slot, running, accumulators):
    _rectify(q_smem, slot, plan)
    g = _products(dout_smem, matrix_smem, slot, plan)
    q = [q_smem[slot, i].astype(jnp.float32) for i in range(plan.blocks)]
    scale = tiles.inverse(q, z, eps, plan)
    slope = scale * tiles.over_heads([a * b for a, b in zip(q, g)], plan)
    for j in range(plan.blocks):
      scaled = dout_smem[slot, j].astype(jnp.float32) * scale
      scaled_smem[j] = scaled.astype(scaled_smem.dtype)
    plgpu.commit_smem()
    tiles.add_over_tokens(accumulators, q_smem, scaled_smem, slot, plan)
    found = [
      jnp.where(x > 0, scale * (g_ - slope * z_), 0.0)
      for x, g_, z_ in zip(q, g, z)
    ]
    running = [total - x * (slope * scale) for x, total in zip(q, running)]
    plgpu.wgmma_wait(0)
    tiles.write_tile([(dq, found)], out_smem, step, plan)
    return running

  def scope(accumulators):
    running = tiles.over_tiles(
      [(q, q_smem), (dout, dout_smem)],
      arrived,
      plan,
      lambda *args: body(*args, accumulators),
      tiles.zeros(plan),
    )
    return running, jax.tree.map(lambda a: a[...], accumulators)

  tiles.write_state(
    *pl.run_scoped(scope, tiles.accumulators(plan)),
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
  dz = tiles.load_state(
    [(matrix, matrix_smem), (transposed, transposed_smem)],
    row,
    row_smem,
    loaded,
    plan,
  )

  def body(step, slot, _):
    _rectify(k_smem, slot, plan)

    def scope(of_v, of_k):
      tiles.add_products(of_v, k_smem, matrix_smem, slot, plan)
      tiles.add_products(of_k, v_smem, transposed_smem, slot, plan)
      positive = [
        k_smem[slot, i].astype(jnp.float32) > 0 for i in range(plan.blocks)
      ]
      return [a[...] for a in of_v], [
        jnp.where(at, a[...] + z, 0.0) for at, a, z in zip(positive, of_k, dz)
      ]

    found_v, found_k = pl.run_scoped(scope, *tiles.accumulators(plan)[:1] * 2)
    tiles.write_tile([(dk, found_k), (dv, found_v)], out_smem, step, plan)
    return _

  tiles.over_tiles([(k, k_smem), (v, v_smem)], arrived, plan, body, None)
  plgpu.wait_smem_to_gmem(0)


def _rectify(smem, slot, plan):
  """Applies relu to a tile, in place."""
  for i in range(plan.blocks):
    smem[slot, i] = jnp.maximum(smem[slot, i], 0)
  plgpu.commit_smem()


def _products(x_smem, matrix_smem, slot, plan):
  """Product of a tile's blocks with a matrix."""

  def scope(accumulators):
    tiles.add_products(accumulators, x_smem, matrix_smem, slot, plan)
    return [a[...] for a in accumulators]

  return pl.run_scoped(scope, tiles.accumulators(plan)[0])
