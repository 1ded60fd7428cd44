"""Gated convolution for Hopper: one pass over memory forward, one backward.

TMA copies tiles with their neighbours from x and reads zeros outside of it:
nothing is padded or split in memory. Sums are float32; silu(x) is
rounded as it is in xla.py. Neighbouring tiles read the same rows and columns of
x; the second read hits the L2 cache.

It is compiled for an H200 and tested in the interpreter; it has not run on a
chip.
"""

import functools

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp
from jaxtyping import Array, Float

from sana_jax.kernels import gpu, sharded, tuning
from sana_jax.kernels.dispatch import UnsupportedError
from sana_jax.kernels.glumb_conv import mosaic_gpu_backward as of_backward
from sana_jax.kernels.glumb_conv import mosaic_gpu_kernels as of_forward
from sana_jax.kernels.glumb_conv import vjp
from sana_jax.kernels.glumb_conv.mosaic_gpu_kernels import (
  AXES,
  HALVES,
  Plan,
  TAPS,
  WIDTH,
)

# Rows of a tile; taller tiles read fewer rows twice, if there are enough tiles.
ROWS, PROGRAMS = (64, 32, 16), 528
STAGES = 4
CANDIDATES = {'rows': (8, 16, 32, 64), 'stages': (3, 4, 6)}


def glumb_conv(
  x: Float[Array, 'b y x c2'],
  kernel: Float[Array, '3 3 c2'],
  bias: Float[Array, 'c2'],
  *,
  interpret=False,
) -> Float[Array, 'b y x c']:
  """Mixes neighbours and gates; halves the channels; returns x's dtype."""
  check_supported(x, interpret)
  if interpret is True:
    interpret = gpu.interpret_params()
  return vjp.gate(_parts(interpret), x, kernel, bias)


@functools.cache
def _parts(interpret):
  return vjp.Parts(
    functools.partial(forward, interpret=interpret),
    functools.partial(backward, interpret=interpret),
  )


def check_supported(x, interpret) -> None:
  """Raises UnsupportedError with the reason, before anything is traced."""
  gpu.check_supported(interpret)
  if x.dtype not in (jnp.bfloat16, jnp.float16):
    raise UnsupportedError(f'it requires 16-bit inputs, not {x.dtype}')
  c = x.shape[3] // 2
  c //= sharded.splits(sharded.axes_of(c, sharded.TENSOR))
  if c % 8:
    raise UnsupportedError(
      f'{c} channels are not a multiple of 8, as TMA requires'
    )


def forward(x, kernel, bias, halo=False, *, interpret=False):
  """Gated convolution; with `halo`, x has one more row above and below."""
  interpreted, channels = bool(interpret), of_forward.CHANNELS
  plan = _plan(x, halo, 1, channels, interpreted)
  b, _, width, _ = x.shape
  if interpreted:  # No negative positions, no clipped writes.
    x = _before(x, 1, 1)
  out = _call(
    of_forward.forward,
    'forward',
    plan,
    b,
    interpret,
    out_type=jax.ShapeDtypeStruct(_extent(b, width, plan, channels), x.dtype),
    scratch_types=[
      plgpu.SMEM((plan.stages, HALVES, WIDTH + 2, channels), x.dtype),
      plgpu.Barrier(num_arrivals=HALVES, num_barriers=plan.stages),
      plgpu.SMEM((TAPS, HALVES, channels), jnp.float32),
      plgpu.Barrier(),
      plgpu.SMEM((2, WIDTH, channels), x.dtype),
    ],
  )(x, _taps(kernel, bias, plan, channels))
  return out[:, : plan.height, :width, : plan.c]


def backward(x, kernel, bias, dout, halo=False, *, interpret=False):
  """Gradients (dx, dkernel, dbias), the latter two in float32 over these rows.

  With `halo`, x has two rows more above and below, and dout one.
  """
  interpreted, channels = bool(interpret), of_backward.CHANNELS
  plan = _plan(x, halo, 2, channels, interpreted, late=1)
  b, _, width, _ = x.shape
  if interpreted:
    x, dout = _before(x, 2, 2), _before(dout, 3, 2)
  *picture, c = _extent(b, width, plan, channels)
  wide = WIDTH + of_backward.MORE
  dx, sums = _call(
    of_backward.backward,
    'backward',
    plan,
    b,
    interpret,
    out_type=[
      jax.ShapeDtypeStruct((*picture, HALVES, c), x.dtype),
      jax.ShapeDtypeStruct(
        (b, plan.across * plan.down, plan.blocks, TAPS, HALVES, channels),
        jnp.float32,
      ),
    ],
    scratch_types=[
      plgpu.SMEM((plan.stages, HALVES, wide, channels), x.dtype),
      plgpu.SMEM((plan.stages, WIDTH + 2, channels), x.dtype),
      plgpu.Barrier(num_arrivals=HALVES + 1, num_barriers=plan.stages),
      plgpu.SMEM((TAPS, HALVES, channels), jnp.float32),
      plgpu.Barrier(),
      plgpu.SMEM((of_backward.KEPT, HALVES, wide, channels), x.dtype),
      plgpu.SMEM((HALVES, WIDTH + 2, channels), jnp.float32),
      plgpu.SMEM((2, HALVES, WIDTH, channels), x.dtype),
      plgpu.SMEM((TAPS, HALVES, channels), jnp.float32),
    ],
  )(x, dout, _taps(kernel, bias, plan, channels))
  dx = dx[:, : plan.height, :width, :, : plan.c]
  sums = (
    jnp.sum(sums, (0, 1))
    .transpose(1, 2, 0, 3)
    .reshape(TAPS, HALVES, -1)[:, :, : plan.c]
    .reshape(TAPS, -1)
  )
  return (
    dx.reshape(*dx.shape[:3], -1),
    sums[:-1].reshape(kernel.shape),
    sums[-1],
  )


def _plan(x, halo, reach, channels, interpreted, *, late=0):
  """Tiling of x; the result depends on `reach` rows and columns around itself.

  There are `late` more stages: a row is used after later ones have arrived.
  """
  b, height, width, c2 = x.shape
  height -= 2 * reach * halo
  across, blocks = -(-width // WIDTH), -(-c2 // 2 // channels)
  rows = next(
    (n for n in ROWS if b * across * blocks * height >= n * PROGRAMS), ROWS[-1]
  )
  chosen = tuning.choose(
    'glumb_conv',
    'mosaic_gpu',
    reach == 2,
    (b, height, width, c2),
    x.dtype,
    rows=rows,
    stages=STAGES,
  )
  rows = min(height, chosen['rows'])
  before = reach * interpreted
  return Plan(
    rows,
    across,
    -(-height // rows),
    blocks,
    c2 // 2,
    height,
    first=reach * halo - reach + before,
    left=before - reach,
    behind=interpreted - halo,
    stages=min(chosen['stages'] + late, rows + 2 * reach),
    interpreted=interpreted,
  )


def _call(body, name, plan, b, interpret, **kwargs):
  return plgpu.kernel(
    functools.partial(body, plan=plan),
    kernel_name=f'glumb_conv_{name}',
    grid=(plan.blocks, plan.across * plan.down, b),
    grid_names=AXES,
    interpret=interpret or None,
    # Reciprocals and exponentials to 2 ** -22: results have 8 or 11 bits.
    compiler_params=plgpu.CompilerParams(
      lowering_semantics=gpu.SEMANTICS, approx_math=True
    ),
    **kwargs,
  )


def _extent(b, width, plan, channels):
  """Shape [b y x c] of a result; interpreted, of all of its tiles."""
  if not plan.interpreted:
    return b, plan.height, width, plan.c
  return (b, plan.down * plan.rows, plan.across * WIDTH, plan.blocks * channels)


def _before(x, rows, columns):
  return jnp.pad(x, ((0, 0), (rows, 0), (columns, 0), (0, 0)))


def _taps(kernel, bias, plan, channels):
  """Kernel and bias in float32: [blocks taps halves channels]."""
  taps = (
    jnp.concatenate([kernel.reshape(9, -1), bias[None]])
    .astype(jnp.float32)
    .reshape(TAPS, HALVES, plan.c)
  )
  taps = jnp.pad(taps, ((0, 0), (0, 0), (0, plan.blocks * channels - plan.c)))
  return taps.reshape(TAPS, HALVES, plan.blocks, channels).transpose(2, 0, 1, 3)
