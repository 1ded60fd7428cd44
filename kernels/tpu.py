"""What Mosaic TPU kernels ask about the chip that they are traced for."""

from jax.experimental.pallas import tpu as pltpu

MIB = 2**20
SPARE = 2 * MIB  # Of VMEM, for what the compiler itself puts there.


def vmem_bytes() -> int:
  """What a kernel may use, by the device in context, else the smallest."""
  try:
    size = pltpu.get_tpu_info().vmem_capacity_bytes
  except ValueError:  # Traced for a device that is not here.
    size = 64 * MIB
  return min(size * 3 // 4, 64 * MIB)


def matrix_columns() -> int:
  """The width of the matrix unit, by the device in context, else 128."""
  try:
    return pltpu.get_tpu_info().mxu_column_size
  except ValueError:
    return 128
