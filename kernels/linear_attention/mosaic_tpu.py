"""ReLU linear attention on TPUs: four Pallas kernels, one for each part.

q, k and v are read as stored, [b n h*d], once in the forward pass and once in
the backward pass; of arrays that long, only the results are written. The grid
is (batch, blocks of lanes, tiles of tokens), the last axis in order: states
are summed in VMEM.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jaxtyping import Array, Float

from sana_jax.kernels import dispatch, tuning
from sana_jax.kernels.linear_attention import mosaic_tpu_kernels as kernels
from sana_jax.kernels.linear_attention import vjp
from sana_jax.kernels.linear_attention.mosaic_tpu_kernels import LANES, Plan
from sana_jax.kernels.linear_attention.xla import State

# Large, as each grid step costs some 0.35 us; but two buffers for each of four
# arrays, and their intermediate results, fit into 16 MiB of VMEM.
_BLOCK_BYTES = 768 * 1024
# Of one lane. Long tiles make up for starting the matrix unit: v6e and v7 need
# 18 % fewer instructions a token with 1024 bfloat16 tokens than with 512
# (compiled).
_TILE_BYTES = 2048
_WIDTH = 12  # Maximum of groups; each has up to 128 KiB of matrices in VMEM.
CANDIDATES = {'tile_bytes': (512, 1024, 2048, 4096), 'width': (2, 4, 8, 12)}


def relu_linear_attention(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b n h k'],
  v: Float[Array, 'b n h k'],
  *,
  eps: float = 1e-15,
  interpret: bool | pltpu.InterpretParams = False,
) -> Float[Array, 'b n h k']:
  """Attends over all tokens; the result has v's dtype.

  Raises UnsupportedError for other dtypes than float32 and bfloat16 and for
  heads of more than 128.
  """
  _check_supported(q, k, v, interpret)
  d = q.shape[-1]
  # Padded to the next divisor of 128 lanes; zeros change only the cost.
  fill = max(8, pl.next_power_of_2(d)) - d
  if fill:
    q, k, v = (jnp.pad(x, ((0, 0),) * 3 + ((0, fill),)) for x in (q, k, v))
  return vjp.attend(_parts(interpret), eps, q, k, v)[..., :d]


def _check_supported(q, k, v, interpret):
  if dispatch.target() != 'tpu' and not interpret:
    raise dispatch.UnsupportedError(
      f'mosaic_tpu runs on TPUs; the platform is {dispatch.target()}'
    )
  if not q.dtype == k.dtype == v.dtype or q.dtype not in (
    jnp.float32,
    jnp.bfloat16,
  ):
    raise dispatch.UnsupportedError(
      f'q, k and v are {q.dtype}, {k.dtype} and {v.dtype}; mosaic_tpu requires '
      'float32 or bfloat16, the same for all'
    )
  if q.shape[-1] > LANES:
    raise dispatch.UnsupportedError(
      f'heads have {q.shape[-1]} channels; mosaic_tpu supports up to {LANES}'
    )


@functools.cache
def _parts(interpret):
  return vjp.Parts(
    *(
      functools.partial(part, interpret)
      for part in (_state, _read, _read_backward, _state_backward)
    )
  )


def _state(interpret, k, v):
  plan = _plan(k)
  return State(
    *_call(
      plan,
      kernels.state_kernel,
      'state',
      (k, v),
      results=0,
      sums=True,
      products=1,
      interpret=interpret,
    )
  )


def _read(interpret, q, state, eps):
  plan = _plan(q)
  weights = pltpu.VMEM((plan.width, plan.terms * LANES, 2 * LANES), plan.dtype)
  return _call(
    plan,
    functools.partial(kernels.read_kernel, eps=eps),
    'read',
    (q,),
    state,
    results=1,
    scratch=(weights,),
    products=2 * plan.terms,
    interpret=interpret,
  )[0]


def _read_backward(interpret, q, state, dout, eps):
  plan = _plan(q, backward=True)
  dq, *dstate = _call(
    plan,
    functools.partial(kernels.read_backward_kernel, eps=eps),
    'read_backward',
    (q, dout),
    state,
    results=1,
    sums=True,
    scratch=_matrices(plan),
    products=4 * plan.terms,
    interpret=interpret,
  )
  return dq, State(*dstate)


def _state_backward(interpret, k, v, dstate):
  plan = _plan(k, backward=True)
  return tuple(
    _call(
      plan,
      kernels.state_backward_kernel,
      'state_backward',
      (k, v),
      dstate,
      results=2,
      scratch=_matrices(plan),
      products=2 * plan.terms,
      interpret=interpret,
    )
  )


def _plan(x, backward=False) -> Plan:
  """Blocks for arrays [b n h d]: whole groups, and tokens up to a size."""
  _, tokens, heads, head_dim = x.shape
  size = x.dtype.itemsize
  chosen = tuning.choose(
    'relu_linear_attention',
    'mosaic_tpu',
    backward,
    x.shape,
    x.dtype,
    tile_bytes=_TILE_BYTES,
    width=_WIDTH,
  )
  tiles = pl.cdiv(tokens, chosen['tile_bytes'] // size)
  # Even parts; of 16, as a bfloat16 register has 16 rows.
  tile = pl.cdiv(tokens, tiles * 16) * 16
  groups = pl.cdiv(heads * head_dim, LANES)
  width = min(chosen['width'], _BLOCK_BYTES // (tile * LANES * size))
  width = pl.cdiv(groups, pl.cdiv(groups, width))
  return Plan(tokens, heads * head_dim, head_dim, x.dtype, tile, width)


def _matrices(plan):
  """Scratch for two [128 128] float32 of each group, split into terms."""
  return tuple(
    pltpu.VMEM((plan.width, *shape), plan.dtype)
    for shape in ((LANES, plan.terms * LANES), (plan.terms * LANES, LANES))
  )


def _call(
  plan,
  body,
  name,
  arrays,
  states=(),
  *,
  results,
  sums=False,
  scratch=(),
  products,
  interpret,
):
  """Runs a kernel on arrays [b n h d] and states, for `results` such arrays.

  With `sums` a state follows them. `products` is the number of matmuls of
  [tile 128] by [128 128] in a tile and a group.
  """
  batch, *_ = shape = arrays[0].shape
  array = jax.ShapeDtypeStruct((batch, plan.tokens, plan.lanes), plan.dtype)
  state = [
    jax.ShapeDtypeStruct((batch, plan.groups, rows, LANES), jnp.float32)
    for rows in (plan.head_dim, 1)
  ]
  tile = pl.BlockSpec(
    (None, plan.tile, plan.width * LANES), lambda b, g, t: (b, t, g)
  )
  whole = [
    pl.BlockSpec((None, plan.width, rows, LANES), lambda b, g, t: (b, g, 0, 0))
    for rows in (plan.head_dim, 1)
  ]
  out = [array] * results + state * sums
  out = pl.pallas_call(
    functools.partial(body, plan),
    name=f'relu_linear_attention_{name}',
    grid=(
      batch,
      pl.cdiv(plan.groups, plan.width),
      pl.cdiv(plan.tokens, plan.tile),
    ),
    in_specs=[tile] * len(arrays) + whole * bool(states),
    out_specs=[tile] * results + whole * sums,
    out_shape=out,
    scratch_shapes=scratch,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'arbitrary')
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * batch * plan.tokens * plan.groups * LANES**2 * products,
      bytes_accessed=sum(
        x.size * x.dtype.itemsize for x in (*arrays, *states, *out)
      ),
      transcendentals=0,
    ),
    interpret=interpret,
  )(*(x.reshape(array.shape) for x in arrays), *states)
  return [x.reshape(shape) for x in out[:results]] + list(out[results:])
