"""What Mosaic GPU kernels share: the chip that they need, and blocks of memory.

They are written for Hopper (`wgmma` and TMA), and run elsewhere in JAX's
interpreter, on a CPU. It knows most of what they use; where it does not,
`interpreted` chooses, here and nowhere else, another way to the same values.
"""

import dataclasses

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from sana_jax.kernels import dispatch

# A block is what one `wgmma` reads and one TMA copies: 64 rows of 128 bytes.
ROWS, COLUMNS, BYTES = 64, 64, 128
SEMANTICS = plgpu.LoweringSemantics.Lane


def check_supported(interpret) -> None:
  """Raises UnsupportedError where there is no Hopper GPU to run on."""
  if interpret:
    return
  if dispatch.target() != 'gpu':
    raise dispatch.UnsupportedError(
      f'it needs a GPU of compute capability 9.0, not a {dispatch.target()}'
    )
  found = getattr(jax.devices()[0], 'compute_capability', '9.0')
  # A CPU compiles for GPUs that are not here.
  if str(found) != '9.0':
    raise dispatch.UnsupportedError(
      f'it needs a GPU of compute capability 9.0, not {found}'
    )


def interpret_params(detect_races: bool = False):
  """What `interpret=True` means: beyond an array's end TMA reads zeros."""
  params = getattr(plgpu, 'InterpretGPUParams', None)
  if params is None:  # jax 0.10
    from jax._src.pallas.mosaic_gpu.interpret.params import (
      InterpretGPUParams as params,
    )
  return params(
    detect_races=detect_races,
    out_of_bounds_reads='uninitialized',
    uninitialized_memory='zero',
  )


def blocks(*shape: int, dtype=jnp.bfloat16):
  """Blocks in shared memory, laid out as `wgmma` reads them."""
  width = BYTES // jnp.dtype(dtype).itemsize
  return plgpu.SMEM(
    (*shape, ROWS, COLUMNS),
    dtype,
    transforms=(
      plgpu.TilingTransform((8, width)),
      plgpu.SwizzleTransform(BYTES),
    ),
  )


def for_tma(ref, at: tuple, interpreted: bool):
  """Block `at` of 16-bit `ref` for copies that an array's end may cut.

  The tiling that `wgmma` asks for changes nothing in memory where a block is
  as wide as its swizzle; without it, TMA accepts any number of rows.
  """
  if interpreted:
    return ref.at[at]
  rows = ref.ref.at[at].reshape(ROWS, COLUMNS)
  unswizzled = plgpu.SwizzleTransform(BYTES).undo(None)
  return dataclasses.replace(rows, transforms=(*rows.transforms, unswizzled))


def release() -> None:
  """Waits until all threads have read what the next copy overwrites.

  One thread alone asks for the copy, and runs ahead of the others.
  """
  plgpu.commit_smem()


def add_products_over_rows(accumulator, a, b, interpreted: bool) -> None:
  """accumulator += a^T b, not awaited."""
  if not interpreted:
    plgpu.wgmma(accumulator, a.transpose((1, 0)), b)
    return

  def copied(transposed):
    transposed[...] = a[...].T
    plgpu.wgmma(accumulator, transposed, b)

  pl.run_scoped(copied, blocks())


def laid_out(x, interpreted: bool, over: int | None = None):
  """x in the registers of `wgmma`'s result, or of its sum `over` an axis."""
  layout = plgpu.Layout.WGMMA
  if over is not None:
    layout = layout.reduce(over)
  return x if interpreted else plgpu.layout_cast(x, layout)
