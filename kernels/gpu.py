"""Shared parts of the Mosaic GPU kernels: hardware check and memory blocks.

They are written for Hopper (`wgmma` and TMA), and run elsewhere in JAX's
interpreter, on a CPU. It supports most of what they use; for the rest,
`interpreted` selects, only here, another way to compute the same values.
"""

import dataclasses

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from sana_jax.kernels import dispatch

# One `wgmma` reads and one TMA copies a block: 64 rows of 128 bytes.
ROWS, COLUMNS, BYTES = 64, 64, 128
SEMANTICS = plgpu.LoweringSemantics.Lane


def check_supported(interpret) -> None:
  """Raises UnsupportedError unless there is a Hopper GPU to run on."""
  if interpret:
    return
  if dispatch.target() != 'gpu':
    raise dispatch.UnsupportedError(
      f'it requires a GPU of compute capability 9.0, not {dispatch.target()}'
    )
  found = getattr(jax.devices()[0], 'compute_capability', '9.0')
  # A CPU compiles for absent GPUs.
  if str(found) != '9.0':
    raise dispatch.UnsupportedError(
      f'it requires a GPU of compute capability 9.0, not {found}'
    )


def interpret_params(detect_races: bool = False):
  """Parameters of `interpret=True`: TMA reads zeros beyond an array."""
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
  """Shared memory blocks in the layout that `wgmma` reads."""
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
  """Block `at` of 16-bit `ref` for copies that may cross the array's end.

  The tiling that `wgmma` requires does not change the memory of a block as wide
  as its swizzle; without it, TMA accepts any number of rows.
  """
  if interpreted:
    return ref.at[at]
  rows = ref.ref.at[at].reshape(ROWS, COLUMNS)
  unswizzled = plgpu.SwizzleTransform(BYTES).undo(None)
  return dataclasses.replace(rows, transforms=(*rows.transforms, unswizzled))


def release() -> None:
  """Waits until all threads have read the data that the next copy overwrites.

  Only one thread issues the copy, and it runs ahead of the others.
  """
  plgpu.commit_smem()


def add_products_over_rows(accumulator, a, b, interpreted: bool) -> None:
  """Starts accumulator += a^T b without waiting for it."""
  if not interpreted:
    plgpu.wgmma(accumulator, a.transpose((1, 0)), b)
    return

  def copied(transposed):
    transposed[...] = a[...].T
    plgpu.wgmma(accumulator, transposed, b)

  pl.run_scoped(copied, blocks())


def laid_out(x, interpreted: bool, over: int | None = None):
  """Casts x to the layout of `wgmma`'s result, or of its sum `over` an axis."""
  layout = plgpu.Layout.WGMMA
  if over is not None:
    layout = layout.reduce(over)
  return x if interpreted else plgpu.layout_cast(x, layout)
