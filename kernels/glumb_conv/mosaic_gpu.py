"""The gate for Hopper: the forward pass reads x and writes its result once.

TMA cuts tiles with their neighbours out of x as it is, and reads zeros outside
of it: nothing is padded or split in memory. Sums are float32. The gradient is
XLA's, from x, kernel and bias: a kernel for it is still to be written.
"""

import functools

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from sana_jax.kernels import gpu
from sana_jax.kernels.dispatch import UnsupportedError
from sana_jax.kernels.glumb_conv import mosaic_gpu_kernels as kernels
from sana_jax.kernels.glumb_conv import xla
from sana_jax.kernels.glumb_conv.mosaic_gpu_kernels import (
  CHANNELS,
  HALVES,
  Plan,
  TAPS,
  WIDTH,
)

ROWS, STAGES = 16, 4


def check_supported(x, interpret) -> None:
  """Raises UnsupportedError with the reason, before anything is traced."""
  gpu.check_supported(interpret)
  if x.dtype not in (jnp.bfloat16, jnp.float16):
    raise UnsupportedError(f'it reads 16-bit numbers, not {x.dtype}')
  if x.shape[3] % 16:
    raise UnsupportedError(
      f'{x.shape[3] // 2} channels are no multiple of the 8 that TMA copies')


def forward(x, kernel, bias, halo=False, *, interpret=False):
  """The gate; with `halo`, x has one row more above and below."""
  plan = _plan(x, halo, bool(interpret))
  b, height, width, _ = x.shape
  height -= 2 * halo
  if plan.interpreted:  # No places before an array; and writes are not cut.
    x = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    shape = (b, plan.down * plan.rows, plan.across * WIDTH,
             plan.blocks * CHANNELS)
  else:
    shape = b, height, width, plan.c
  out = plgpu.kernel(
    functools.partial(kernels.forward, plan=plan),
    out_type=jax.ShapeDtypeStruct(shape, x.dtype),
    grid=(plan.blocks, plan.across * plan.down, b), grid_names=kernels.AXES,
    scratch_types=[
      plgpu.SMEM((plan.stages, HALVES, WIDTH + 2, CHANNELS), x.dtype),
      plgpu.Barrier(num_arrivals=HALVES, num_barriers=plan.stages),
      plgpu.SMEM((TAPS, HALVES, CHANNELS), jnp.float32), plgpu.Barrier(),
      plgpu.SMEM((2, WIDTH, CHANNELS), x.dtype)],
    kernel_name='glumb_conv_forward', interpret=interpret or None,
    # Reciprocals and exponentials to 2 ** -22: results have 8 or 11 bits.
    compiler_params=plgpu.CompilerParams(
      lowering_semantics=gpu.SEMANTICS, approx_math=True))(
        x, _taps(kernel, bias, plan))
  return out[:, :height, :width, :plan.c]


def backward(x, kernel, bias, dout, halo=False):
  """(dx, dkernel, dbias), the latter two in float32 and of these rows alone.

  With `halo`, x has two rows more above and below, and dout one.
  """
  kernel, bias = kernel.astype(jnp.float32), bias.astype(jnp.float32)
  if not halo:
    return jax.vjp(xla.glumb_conv, x, kernel, bias)[1](
      dout.astype(jnp.float32))

  def rows_of(count):
    """The gate of `count` rows beside our own, seen from all of x."""
    return lambda *args: xla.glumb_conv(*args)[:, 2 - count:count - 2 or None]
  dx, _, _ = jax.vjp(rows_of(1), x, kernel, bias)[1](dout.astype(jnp.float32))
  _, *weights = jax.vjp(rows_of(0), x, kernel, bias)[1](
    dout[:, 1:-1].astype(jnp.float32))
  return dx[:, 2:-2], *weights


def _plan(x, halo, interpreted):
  b, height, width, channels = x.shape
  height -= 2 * halo
  rows = min(ROWS, height)
  return Plan(
    rows, -(-width // WIDTH), -(-height // rows), -(-channels // 2 // CHANNELS),
    channels // 2, first=halo - 1 + interpreted, left=interpreted - 1,
    stages=min(STAGES, rows + 2), interpreted=interpreted)


def _taps(kernel, bias, plan):
  """[blocks taps halves 256]: the kernel, then the bias, in float32."""
  taps = jnp.concatenate([kernel.reshape(9, -1), bias[None]]).astype(
    jnp.float32).reshape(TAPS, HALVES, plan.c)
  taps = jnp.pad(taps, ((0, 0), (0, 0), (0, plan.blocks * CHANNELS - plan.c)))
  return taps.reshape(TAPS, HALVES, plan.blocks, CHANNELS).transpose(2, 0, 1, 3)
