"""3x3 convolution with its epilogue on TPU, in one pass over memory.

A grid step holds some rows of one picture with all their channels, and one
more above and below. Each row is concatenated with itself shifted by a
pixel to the left and to the right; then a row of the result is one matmul of
three such rows with all nine taps: [x 9*c] by [9*c o]. The epilogue is applied
to the float32 sums, which are never in memory. XLA's own
convolution spends most of its time on copies into other layouts.

On a matrix unit with 256 columns, 128 features leave half of it idle. There,
two rows of the result are computed from the four rows they read: three quarters
of the weights are then not zero.

The gradient is XLA's, of the definition, recomputed from the inputs. The kernel
is tested in the interpreter and compiles for v5e, v5p, v6e and tpu7x; it has
not run on a chip.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from sana_jax.kernels import dispatch, sharded, tpu, tuning
from sana_jax.kernels.conv3x3 import mosaic_tpu_body as body
from sana_jax.kernels.conv3x3 import xla
from sana_jax.kernels.conv3x3.mosaic_tpu_body import LANES, MARGIN, Tile
from sana_jax.kernels.dispatch import UnsupportedError

CANDIDATES = {'rows': (2, 4, 8, 16, 32, 64)}


def conv3x3_silu(
  x: Float[Array, 'b y x c'],
  kernel: Float[Array, '3 3 c o'],
  bias: Float[Array, 'o'],
  *,
  rows: int | None = None,
  group: int | None = None,
  interpret=False,
) -> Float[Array, 'b y x o']:
  """silu(conv(x) + bias), in x's dtype.

  A grid step computes `rows` of a picture, by default as many as fit, in groups
  of `group` (1 or 2) rows, by default as suits the matrix unit.
  """
  tile = functools.partial(_tile, 'conv3x3_silu', rows, group)
  _check_supported(x, kernel, None, tile, interpret)

  def forward(x, kernel, bias):
    vectors = jnp.stack([bias, jnp.zeros_like(bias)])
    return _on_mesh(
      'conv3x3_silu', tile, body.silu, interpret, x, kernel, vectors
    )

  return _with_gradient(forward, xla.conv3x3_silu)(x, kernel, bias)


def conv3x3_norm(
  x: Float[Array, 'b y x c'],
  kernel: Float[Array, '3 3 c o'],
  scale: Float[Array, 'o'],
  shift: Float[Array, 'o'],
  residual: Float[Array, 'b y x o'],
  *,
  eps: float = 1e-5,
  rows: int | None = None,
  group: int | None = None,
  interpret=False,
) -> Float[Array, 'b y x o']:
  """residual + conv(x) / rms * scale + shift, in their dtype."""
  tile = functools.partial(_tile, 'conv3x3_norm', rows, group)
  _check_supported(x, kernel, residual, tile, interpret)

  def forward(x, kernel, scale, shift, residual):
    return _on_mesh(
      'conv3x3_norm',
      tile,
      functools.partial(body.norm, eps=eps),
      interpret,
      x,
      kernel,
      jnp.stack([scale, shift]),
      residual,
    )

  return _with_gradient(forward, functools.partial(xla.conv3x3_norm, eps=eps))(
    x, kernel, scale, shift, residual
  )


def _check_supported(x, kernel, residual, tile, interpret):
  if dispatch.target() != 'tpu' and not interpret:
    raise UnsupportedError(
      f'mosaic_tpu runs on TPUs; the platform is {dispatch.target()}'
    )
  if x.dtype not in (jnp.bfloat16, jnp.float32):
    raise UnsupportedError(f'{x.dtype} is neither bfloat16 nor float32')
  if residual is not None and residual.dtype != x.dtype:
    raise UnsupportedError(
      f'x is {x.dtype}, but the residual is {residual.dtype}'
    )
  for channels in kernel.shape[2:]:
    if channels % LANES:
      raise UnsupportedError(f'{channels} channels: not a multiple of {LANES}')
  tile(x, kernel, residual is not None, False)


def _with_gradient(forward, definition):
  """Returns `forward` with the gradient of `definition`."""
  f = jax.custom_vjp(forward)
  f.defvjp(
    lambda *args: (forward(*args), args),
    lambda args, dout: jax.vjp(definition, *args)[1](dout),
  )
  return f


def _on_mesh(name, tile, finish, interpret, x, kernel, vectors, *residual):
  """Runs the convolution on each device's pictures and rows."""
  batch = sharded.axes_of(x.shape[0], sharded.BATCH)
  rows = sharded.axes_of(x.shape[1], sharded.SEQUENCE)
  picture = P(batch or None, rows or None)

  def run(x, *args):
    return _forward(
      name,
      tile,
      finish,
      interpret,
      bool(rows),
      sharded.with_neighbours(x, 1, rows),
      *args,
    )

  specs = picture, P(), P(), *(picture for _ in residual)
  return sharded.on_mesh(run, specs, picture)(x, kernel, vectors, *residual)


def _forward(
  name, tile, finish, interpret, halo, x, kernel, vectors, *residual
):
  tile = tile(x, kernel, bool(residual), halo)
  b, o = x.shape[0], tile.features
  kernel = _side_by_side(kernel.astype(x.dtype), tile.group)
  own = pl.BlockSpec((1, tile.rows, tile.width, o), lambda b, i: (b, i, 0, 0))
  around = tuple(
    pl.Element(n) for n in (1, tile.block, tile.width, tile.channels)
  )
  return pl.pallas_call(
    functools.partial(body.forward, tile=tile, finish=finish),
    name=name,
    grid=(b, tile.count),
    in_specs=[
      pl.BlockSpec(around, lambda b, i: (b, tile.start(i), 0, 0)),
      # The same block in every step: one buffer suffices.
      pl.BlockSpec(
        kernel.shape, lambda b, i: (0, 0), pipeline_mode=pl.Buffered(1)
      ),
      pl.BlockSpec(vectors.shape, lambda b, i: (0, 0)),
      *(own for _ in residual),
    ],
    out_specs=own,
    out_shape=jax.ShapeDtypeStruct((b, tile.height, tile.width, o), x.dtype),
    scratch_shapes=_scratch(tile, x.dtype),
    cost_estimate=_cost(tile, b, x.dtype.itemsize, len(residual)),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel'),
      vmem_limit_bytes=tpu.vmem_bytes(),
    ),
    interpret=interpret,
  )(x, kernel, vectors.astype(jnp.float32), *residual)


def _scratch(tile, dtype):
  """Scratch: (a zero-padded float32 row, all rows and their shifts)."""
  return [
    pltpu.VMEM(
      (
        tile.group * tile.channels // LANES,
        tile.padded_width + 2 * MARGIN,
        LANES,
      ),
      jnp.float32,
    ),
    pltpu.VMEM(
      (
        tile.rows // tile.group + tile.seen - 1,
        tile.padded_width,
        tile.group * 3 * tile.channels,
      ),
      dtype,
    ),
  ]


def _side_by_side(kernel, group):
  """Taps of a group's output rows by input row: [(group+2)*3*c group*o]."""
  taps = kernel.reshape(3, -1, kernel.shape[-1])
  return jnp.concatenate(
    [jnp.pad(taps, ((r, group - 1 - r), (0, 0), (0, 0))) for r in range(group)],
    axis=-1,
  ).reshape(-1, group * kernel.shape[-1])


def _cost(tile, b, itemsize, residuals):
  pixels, c, o = b * tile.height * tile.width, tile.channels, tile.features
  return pl.CostEstimate(
    flops=18 * pixels * c * o,
    bytes_accessed=itemsize * (pixels * (c + o * (1 + residuals)) + 9 * c * o),
    transcendentals=pixels * (1 if residuals else 2 * o),
  )


def _tile(op, rows, group, x, kernel, residual, halo):
  """Tile with the requested rows, or the most that fit, split evenly."""
  b, height, width, c = x.shape
  o = kernel.shape[-1]
  height -= 2 * halo
  group = group or (2 if 2 * o <= tpu.matrix_columns() else 1)
  tile = functools.partial(
    Tile,
    height=height,
    width=width,
    channels=c,
    features=o,
    group=group,
    halo=halo,
  )
  step, limit = tile(rows=1).step, tpu.vmem_bytes() - tpu.SPARE

  def size(rows):
    return tile(rows=rows).vmem_bytes(x.dtype.itemsize, residual)

  most = step
  while most < height and size(most + step) <= limit:
    most += step
  if size(most) > limit:
    raise UnsupportedError(
      f'{step} rows of {width} x {c} {x.dtype} with their neighbours need '
      f'{size(most) / tpu.MIB:.0f} MiB of VMEM; available are '
      f'{limit / tpu.MIB:.0f}'
    )
  rows = (
    rows
    or tuning.choose(
      op, 'mosaic_tpu', False, (b, height, width, c), x.dtype, rows=0
    )['rows']
  )
  rows = min(rows or pl.cdiv(height, pl.cdiv(height, most)), most)
  return tile(rows=pl.cdiv(rows, step) * step)
