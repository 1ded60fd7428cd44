"""ReLU linear attention for Hopper: each part reads and writes memory once.

The four parts of vjp.py are kernels over tiles of tokens; the products run on
tensor cores with float32 sums (mosaic_gpu_kernels.py). q, k and v stay as they
are, [b n h*d]: TMA copies blocks of 64 columns and reads zeros where a block
extends past the array, so nothing is padded. A program owns two heads of 32
and keeps, of their 64 x 64 products, those within a head. Long sequences are
split over programs; XLA adds up their states.

S and its gradient are float32 in memory, and two bfloat16 parts in products.
Only the gradient of the numerator is rounded to bfloat16.

It is compiled for an H200 and tested in the interpreter; it has not run on a
chip.
"""

import functools

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp
from jaxtyping import Array, Float

from sana_jax.kernels import gpu, tuning
from sana_jax.kernels.dispatch import UnsupportedError
from sana_jax.kernels.linear_attention import mosaic_gpu_kernels as kernels
from sana_jax.kernels.linear_attention import vjp
from sana_jax.kernels.linear_attention.mosaic_gpu_tiles import AXES, PARTS, Plan
from sana_jax.kernels.linear_attention.xla import State

# Four per multiprocessor of an H200 (132). Each split costs one more state.
PROGRAMS, LEAST_STEPS = 528, 4
STAGES = 3
CANDIDATES = {'programs': (132, 264, 528, 1056), 'stages': (2, 3, 4)}


def relu_linear_attention(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b n h k'],
  v: Float[Array, 'b n h k'],
  *,
  eps: float = 1e-15,
  interpret=False,
) -> Float[Array, 'b n h k']:
  """Attends over all tokens; `interpret` is True or JAX's parameters for it."""
  check_supported(q, k, v, eps, interpret)
  if interpret is True:
    interpret = gpu.interpret_params()
  return vjp.attend(_parts(interpret), eps, q, k, v)


def check_supported(q, k, v, eps, interpret) -> None:
  """Raises UnsupportedError with the reason, before anything is traced."""
  gpu.check_supported(interpret)
  dtypes = {jnp.dtype(x.dtype).name for x in (q, k, v)}
  if dtypes != {'bfloat16'}:
    raise UnsupportedError(
      f'it requires bfloat16, not {" and ".join(sorted(dtypes))}'
    )
  if q.shape[-1] not in (32, 64, 128):
    raise UnsupportedError(
      f'heads have {q.shape[-1]} columns; it supports 32, 64 and 128'
    )
  if eps <= 0:
    raise UnsupportedError(f'eps={eps} must be positive: it is a divisor')


@functools.cache
def _parts(interpret):
  """Cached, because JAX hashes the result: equal parameters, same object."""
  return vjp.Parts(
    *(
      functools.partial(part, interpret=interpret)
      for part in (_state, _read, _read_backward, _state_backward)
    )
  )


def _state(k, v, *, interpret):
  plan = _plan(k, bool(interpret))
  partial = _call(
    kernels.state,
    'state',
    plan,
    k,
    interpret,
    out_type=_states(plan, k.shape[0]),
    scratch=[*_inputs(plan, 2), *_states_smem(plan)],
  )(_flat(k), _flat(v))
  return _joined(*partial, plan, k.shape[2])


def _read(q, state, eps, *, interpret):
  plan = _plan(q, bool(interpret))
  body = functools.partial(kernels.read, eps=eps)
  out = _call(
    body,
    'read',
    plan,
    q,
    interpret,
    out_type=_like(q, plan),
    scratch=[
      *_inputs(plan, 1),
      *_states_in(plan, 1),
      gpu.blocks(2, 1, plan.blocks),
    ],
  )(_flat(q), _matrix(state.values, plan), _row(state.normaliser, plan))
  return _unflat(out, q)


def _read_backward(q, state, dout, eps, *, interpret):
  plan = _plan(q, bool(interpret), backward=True)
  body = functools.partial(kernels.read_backward, eps=eps)
  dq, *partial = _call(
    body,
    'read_backward',
    plan,
    q,
    interpret,
    out_type=[_like(q, plan), *_states(plan, q.shape[0])],
    scratch=[
      *_inputs(plan, 2),
      *_states_in(plan, 1),
      gpu.blocks(2, 1, plan.blocks),
      gpu.blocks(plan.blocks),
      *_states_smem(plan),
    ],
  )(
    _flat(q),
    _flat(dout),
    _matrix(state.values.mT, plan),
    _row(state.normaliser, plan),
  )
  return _unflat(dq, q), _joined(*partial, plan, q.shape[2])


def _state_backward(k, v, dstate, *, interpret):
  plan = _plan(k, bool(interpret), backward=True)
  found = _call(
    kernels.state_backward,
    'state_backward',
    plan,
    k,
    interpret,
    out_type=[_like(k, plan)] * 2,
    scratch=[
      *_inputs(plan, 2),
      *_states_in(plan, 2),
      gpu.blocks(2, 2, plan.blocks),
    ],
  )(
    _flat(k),
    _flat(v),
    _matrix(dstate.values, plan),
    _matrix(dstate.values.mT, plan),
    _row(dstate.normaliser, plan),
  )
  return tuple(_unflat(x, k) for x in found)


def _plan(x, interpreted, backward=False):
  """Tiling of [b n h d]."""
  b, n, h, head = x.shape
  blocks = max(1, head // gpu.COLUMNS)
  groups = -(-h * head // (blocks * gpu.COLUMNS))
  tiles = -(-n // gpu.ROWS)
  chosen = tuning.choose(
    'relu_linear_attention',
    'mosaic_gpu',
    backward,
    x.shape,
    x.dtype,
    programs=PROGRAMS,
    stages=STAGES,
  )
  splits = min(
    -(-chosen['programs'] // (b * groups)), max(1, tiles // LEAST_STEPS)
  )
  steps = -(-tiles // splits)
  # Shared memory holds one tile of 128 columns beside their states.
  stages = min(steps, chosen['stages'] if blocks == 1 else 1)
  return Plan(
    head, blocks, groups, -(-tiles // steps), steps, stages, interpreted
  )


def _call(body, name, plan, x, interpret, *, out_type, scratch):
  return plgpu.kernel(
    functools.partial(body, plan=plan),
    out_type=out_type,
    scratch_types=scratch,
    kernel_name=f'relu_linear_attention_{name}',
    grid=(plan.groups, plan.splits, x.shape[0]),
    grid_names=AXES,
    interpret=interpret or None,
    compiler_params=plgpu.CompilerParams(lowering_semantics=gpu.SEMANTICS),
  )


def _inputs(plan, count):
  """Scratch for tiles of `count` inputs, and the barriers of their copies."""
  return [
    *[gpu.blocks(plan.stages, plan.blocks)] * count,
    plgpu.Barrier(num_arrivals=count * plan.blocks, num_barriers=plan.stages),
  ]


def _states_in(plan, matrices):
  """Scratch for `matrices` in parts and a row, and their barrier."""
  return [
    *[gpu.blocks(PARTS, plan.blocks, plan.blocks)] * matrices,
    plgpu.SMEM((plan.blocks, gpu.COLUMNS), jnp.float32),
    plgpu.Barrier(num_arrivals=matrices * PARTS * len(plan.pairs) + 1),
  ]


def _states_smem(plan):
  return [
    gpu.blocks(plan.blocks, plan.blocks, dtype=jnp.float32),
    plgpu.SMEM((plan.blocks, gpu.COLUMNS), jnp.float32),
  ]


def _states(plan, b):
  lead = plan.splits, b, plan.groups
  return [
    jax.ShapeDtypeStruct((*lead, *shape), jnp.float32)
    for shape in (
      (plan.blocks, plan.blocks, gpu.COLUMNS, gpu.COLUMNS),
      (plan.blocks, gpu.COLUMNS),
    )
  ]


def _like(x, plan):
  """Shape [b n h*d]; interpreted, of all tiles: writes are not clipped."""
  b, n, h, d = x.shape
  n, width = (
    (n, h * d)
    if not plan.interpreted
    else (
      plan.splits * plan.steps * gpu.ROWS,
      plan.groups * plan.blocks * gpu.COLUMNS,
    )
  )
  return jax.ShapeDtypeStruct((b, n, width), x.dtype)


def _flat(x):
  return x.reshape(*x.shape[:2], -1)


def _unflat(x, like):
  b, n, h, d = like.shape
  return x[:, :n, : h * d].reshape(like.shape)


def _row(x, plan):
  """[b h d] -> [b groups blocks 64]."""
  x = x.reshape(x.shape[0], -1)
  missing = plan.groups * plan.blocks * gpu.COLUMNS - x.shape[1]
  return jnp.pad(x, ((0, 0), (0, missing))).reshape(
    -1, plan.groups, plan.blocks, gpu.COLUMNS
  )


def _matrix(x, plan):
  """[b h d e] -> [b groups parts i j 64 64], zero between heads."""
  b, h, d, _ = x.shape
  heads = plan.blocks * gpu.COLUMNS // d  # Of a group.
  x = jnp.pad(x, ((0, 0), (0, plan.groups * heads - h), (0, 0), (0, 0)))
  x = (
    x.reshape(b, -1, heads, d, 1, d)
    * jnp.eye(heads, dtype=x.dtype)[:, None, :, None]
  )
  x = x.reshape(
    b, plan.groups, plan.blocks, gpu.COLUMNS, plan.blocks, gpu.COLUMNS
  ).swapaxes(3, 4)
  # XLA removes a cast to bfloat16 and back, but not this.
  high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
  return jnp.stack([high, x - high], axis=2).astype(jnp.bfloat16)


def _joined(sums, totals, plan, h):
  """Sums over splits, as a State of h heads."""
  b, d = sums.shape[1], plan.head
  heads = plan.blocks * gpu.COLUMNS // d
  sums = sums.swapaxes(4, 5).reshape(
    plan.splits, b, plan.groups, heads, d, heads, d
  )
  own = jnp.arange(heads)
  # Sliced before they are added: half of two heads' products is unused.
  values = jnp.sum(jnp.stack([sums[:, :, :, i, :, i] for i in own], 3), 0)
  return State(
    values.reshape(b, -1, d, d)[:, :h],
    jnp.sum(totals, 0).reshape(b, -1, d)[:, :h],
  )
