"""Properties of the TPU that Mosaic kernels are traced for."""

from jax.experimental.pallas import tpu as pltpu

MIB = 2**20
SPARE = 2 * MIB  # VMEM reserved for the compiler.


def vmem_bytes() -> int:
  """VMEM of the device in context, else of the smallest TPU."""
  try:
    size = pltpu.get_tpu_info().vmem_capacity_bytes
  except ValueError:  # Traced for an absent device.
    size = 64 * MIB
  return min(size * 3 // 4, 64 * MIB)


def matrix_columns() -> int:
  """Width of the matrix unit of the device in context, else 128."""
  try:
    return pltpu.get_tpu_info().mxu_column_size
  except ValueError:
    return 128
