"""Bodies of the TPU kernels of linear attention; mosaic_tpu.py calls them.

Heads lie side by side in the lanes, 128 / d of them in a *group* of 128. All
products of a group are [128 128] on the matrix unit; of a state, the blocks
between different heads are cut out. Stored states are [d 128]: S[i, lane] is
row i of the lane's head.

Bfloat16 products with a float32 matrix take it as the sum of two bfloat16 ones,
side by side, so that only the rounding of results is lost. Float32 products are
of full precision.

A block may extend past the arrays, in tokens and in lanes. Values there are
undefined and may be NaN: they are masked before any sum over them.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

LANES = 128
# Axes of a product that are summed over.
_NN, _NT, _TN = ((1,), (0,)), ((1,), (1,)), ((0,), (0,))


@dataclasses.dataclass(frozen=True)
class Plan:
  """Shapes of one call; its grid is (batch, blocks of groups, tiles).

  Attributes:
    tokens, lanes: sizes of the arrays, [b tokens lanes].
    head_dim: lanes of a head, a divisor of 128.
    dtype: dtype of the arrays, float32 or bfloat16.
    tile: tokens in a block.
    width: groups in a block.
  """

  tokens: int
  lanes: int
  head_dim: int
  dtype: jnp.dtype
  tile: int
  width: int

  @property
  def groups(self) -> int:
    """Groups of 128 lanes in an array; the last one may not be full."""
    return pl.cdiv(self.lanes, LANES)

  @property
  def terms(self) -> int:
    """Number of terms of `dtype` that represent a float32."""
    return 1 if self.dtype == jnp.float32 else 2


def state_kernel(plan: Plan, k_ref, v_ref, s_ref, z_ref):
  """S += relu(k)^T v and z += relu(k), over tiles."""
  each_group = _each_group(plan)

  @pl.when(pl.program_id(2) == 0)
  def _():
    s_ref[...] = jnp.zeros_like(s_ref)
    z_ref[...] = jnp.zeros_like(z_ref)

  @each_group
  def _(g, inside):
    k, v = (jnp.where(inside, _load(r, g), 0) for r in (k_ref, v_ref))
    k = jax.nn.relu(k)
    s_ref[g] += _fold(plan, _dot(k, v, _TN))
    z_ref[g] += _sum_of_tokens(k)


def read_kernel(plan: Plan, q_ref, s_ref, z_ref, out_ref, weights, *, eps):
  """out = relu(q) S / (relu(q) z + eps), z in all columns of its head."""
  each_group = _each_group(plan)

  @pl.when(pl.program_id(2) == 0)
  def _():
    @each_group
    def _(g, _):
      weights[g, :, :LANES] = _tall(plan, _unfold(plan, s_ref[g]))
      weights[g, :, LANES:] = _tall(plan, _columns(plan, z_ref[g]))

  @each_group
  def _(g, inside):
    q = jax.nn.relu(jnp.where(inside, _load(q_ref, g), 0))
    both = _dot(_repeat(plan, q), weights[g], _NN)
    _store(out_ref, g, both[:, :LANES] / (both[:, LANES:] + eps))


def read_backward_kernel(
  plan: Plan,
  q_ref,
  dout_ref,
  s_ref,
  z_ref,
  dq_ref,
  ds_ref,
  dz_ref,
  s_wide,
  z_tall,
  *,
  eps,
):
  """Gradients from dout: dq, and those of S and z, summed over tiles.

  With r = 1 / (relu(q) z + eps), which is one number a head, and u = S dout:
    dq = r (u - c z) where q > 0,     c = r relu(q) . u  (= out . dout)
    dS = sum of relu(q)^T (r dout),   dz = -sum of relu(q) c r
  """
  each_group = _each_group(plan)

  @pl.when(pl.program_id(2) == 0)
  def _():
    ds_ref[...] = jnp.zeros_like(ds_ref)
    dz_ref[...] = jnp.zeros_like(dz_ref)

    @each_group
    def _(g, _):
      s_wide[g] = _wide(plan, _unfold(plan, s_ref[g]))
      z_tall[g] = _tall(plan, _columns(plan, z_ref[g]))

  ones = jnp.where(_same_head(plan), 1.0, 0.0).astype(plan.dtype)
  ones = jnp.concatenate([ones] * plan.terms, axis=0)

  @each_group
  def _(g, inside):
    q, dout = (jnp.where(inside, _load(r, g), 0) for r in (q_ref, dout_ref))
    weight = jax.nn.relu(q)
    r = 1 / (_dot(_repeat(plan, weight), z_tall[g], _NN) + eps)
    r = jnp.where(inside, r, 0)  # Outside of the arrays it is 1 / eps.
    u = _dot(_repeat(plan, dout), s_wide[g], _NT)
    wide = weight.astype(jnp.float32)
    c = r * _dot(_wide(plan, wide * u), ones, _NN)
    _store(dq_ref, g, jnp.where(q > 0, r * (u - c * z_ref[g]), 0))
    ds = _dot(weight, _wide(plan, r * dout.astype(jnp.float32)), _TN)
    ds_ref[g] += _fold(plan, sum(jnp.split(ds, plan.terms, axis=1)))
    dz_ref[g] -= _sum_of_tokens(wide * (c * r))


def state_backward_kernel(
  plan: Plan, k_ref, v_ref, ds_ref, dz_ref, dk_ref, dv_ref, ds_wide, ds_tall
):
  """dk = v dS^T + dz where k > 0, dv = relu(k) dS."""
  each_group = _each_group(plan)

  @pl.when(pl.program_id(2) == 0)
  def _():
    @each_group
    def _(g, _):
      ds = _unfold(plan, ds_ref[g])
      ds_wide[g], ds_tall[g] = _wide(plan, ds), _tall(plan, ds)

  @each_group
  def _(g, inside):
    k, v = (jnp.where(inside, _load(r, g), 0) for r in (k_ref, v_ref))
    dk = _dot(_repeat(plan, v), ds_wide[g], _NT) + dz_ref[g]
    _store(dk_ref, g, jnp.where(k > 0, dk, 0))
    _store(dv_ref, g, _dot(_repeat(plan, jax.nn.relu(k)), ds_tall[g], _NN))


def _each_group(plan: Plan) -> Callable:
  """Decorator: runs f(group in the block, mask of [tile 128] in the arrays).

  Call it outside of `pl.when`: Pallas' interpreter has no program_id there.
  """
  first = pl.program_id(1) * plan.width
  rows = plan.tokens - pl.program_id(2) * plan.tile
  row, lane = (
    jax.lax.broadcasted_iota(jnp.int32, (plan.tile, LANES), axis)
    for axis in (0, 1)
  )

  def over(f):
    def one(g, _):
      inside = True
      if plan.tokens % plan.tile:
        inside &= row < rows
      if plan.lanes % LANES:
        inside &= lane < plan.lanes - (first + g) * LANES
      f(g, inside)

    jax.lax.fori_loop(
      0, jnp.minimum(plan.width, plan.groups - first), one, None
    )

  return over


def _load(ref, g):
  return ref[:, pl.ds(pl.multiple_of(g * LANES, LANES), LANES)]


def _store(ref, g, x):
  ref[:, pl.ds(pl.multiple_of(g * LANES, LANES), LANES)] = x.astype(ref.dtype)


def _dot(a, b, axes):
  precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  return jax.lax.dot_general(
    a,
    b,
    (axes, ((), ())),
    precision=precision,
    preferred_element_type=jnp.float32,
  )


def _sum_of_tokens(x):
  return jnp.sum(x.astype(jnp.float32), axis=0, keepdims=True)


def _split(plan, x):
  """Terms of `plan.dtype` that add up to a float32 x (to 2 ** -17 of it)."""
  if plan.terms == 1:
    return [x]
  high = x.astype(plan.dtype)
  return [high, (x - high.astype(jnp.float32)).astype(plan.dtype)]


def _wide(plan, x):
  return jnp.concatenate(_split(plan, x), axis=1)


def _tall(plan, x):
  return jnp.concatenate(_split(plan, x), axis=0)


def _repeat(plan, x):
  """Repeats x once for each of the terms that it is multiplied by."""
  return jnp.concatenate([x] * plan.terms, axis=1)


def _same_head(plan):
  """Mask of the entries of [128 128] within one head."""
  row, column = (
    jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1)
  )
  # Not //: it queries the chip, and there may be none.
  head = lambda i: jax.lax.div(i, plan.head_dim)
  return head(row) == head(column)


def _fold(plan, x):
  """Extracts the heads' diagonal blocks of [128 128] as [d 128]."""
  x = jnp.where(_same_head(plan), x, 0)
  return sum(jnp.split(x, LANES // plan.head_dim, axis=0))


def _unfold(plan, x):
  """Expands [d 128] to [128 128] with zeros between heads."""
  return jnp.where(
    _same_head(plan), jnp.concatenate([x] * (LANES // plan.head_dim)), 0
  )


def _columns(plan, z):
  """Expands [1 128] to [128 128]: z_i in row i, in its head's columns."""
  return jnp.where(_same_head(plan), jnp.broadcast_to(z, (LANES, LANES)).T, 0)
