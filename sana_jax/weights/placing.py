"""Parameters, read tensor by tensor directly into their shards and dtype.

Each tensor is read once. Besides the result, only the tensors being read are in
memory, one per thread.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
import numpy as np

from sana_jax.typing import DType
from sana_jax.weights.tensors import Stored
from sana_jax.weights.transforms import IDENTITY, Transform

_ALIGNMENT = 64  # Alignment of buffers that XLA on CPU uses without a copy.
_THREADS = 4
_PIECE = 64 * 2**20  # Bytes of a large tensor that are read at once.


class Part(NamedTuple):
  """A tensor and its transform to our parameter, or to one layer of it."""

  tensor: Stored
  transform: Transform

  def pieces(self) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows of our array, their values) until all are covered."""
    tensor = self.tensor
    if self.transform is not IDENTITY or tensor.nbytes <= _PIECE:
      yield slice(None), self.transform.load(tensor.read())
      return
    step = max(1, _PIECE * tensor.shape[0] // tensor.nbytes)
    for start in range(0, tensor.shape[0], step):
      stop = min(start + step, tensor.shape[0])
      yield slice(start, stop), tensor.fetch(start, stop)


def on_host(
  shape: Sequence[int], parts: Sequence[Part], stacked: bool
) -> np.ndarray:
  """NumPy array in the file's dtype."""
  out = np.empty(
    shape,
    parts[0]
    .transform.load(
      np.empty((1,) * len(parts[0].tensor.shape), parts[0].tensor.dtype)
    )
    .dtype,
  )
  _fill({_everything(shape): out}, shape, parts, stacked)
  return out


def on_devices(
  shape: Sequence[int],
  parts: Sequence[Part],
  stacked: bool,
  dtype: DType,
  sharding: Sharding | None = None,
) -> jax.Array:
  """JAX array in `dtype`, sharded by `sharding`.

  Without a sharding it is on JAX's default device.
  """
  shape = tuple(shape)
  if sharding is None:
    buffer = _aligned(shape, dtype)
    _fill({_everything(shape): buffer}, shape, parts, stacked)
    return jax.device_put(buffer)
  spans = {
    device: _spans(index, shape)
    for device, index in sharding.addressable_devices_indices_map(shape).items()
  }
  buffers = {
    span: _aligned([stop - start for start, stop in span], dtype)
    for span in set(spans.values())
  }
  _fill(buffers, shape, parts, stacked)
  return jax.make_array_from_single_device_arrays(
    shape,
    sharding,
    [jax.device_put(buffers[span], device) for device, span in spans.items()],
  )


def target_dtype(leaf, dtype: DType) -> np.dtype:
  """`dtype` for floating parameters, the leaf's own for others."""
  floating = jnp.issubdtype(leaf.dtype, jnp.floating)
  return np.dtype(dtype if floating else leaf.dtype)


def _everything(shape):
  return tuple((0, n) for n in shape)


def _spans(index, shape):
  """(start, stop) of each axis, which, unlike slices, are hashable."""
  return tuple(s.indices(n)[:2] for s, n in zip(index, shape))


def _fill(buffers, shape, parts, stacked):
  """Reads each part that overlaps with a buffer, and copies it there."""

  def copy(layer):
    needing = [
      (span[1:], buffer[layer - span[0][0]]) if stacked else (span, buffer)
      for span, buffer in buffers.items()
      if not stacked or span[0][0] <= layer < span[0][1]
    ]
    if not needing:
      return
    for rows, values in parts[layer].pieces():
      for span, buffer in needing:
        _copy_rows(buffer, span, rows, values)

  with ThreadPoolExecutor(min(_THREADS, len(parts))) as pool:
    list(pool.map(copy, range(len(parts))))


def _copy_rows(buffer, span, rows, values):
  """Copies the overlap of `values`, some rows of an array, with `span`."""
  if not span:
    buffer[...] = values
    return
  first = rows.start or 0
  start, stop = span[0]
  start, stop = max(start, first), min(stop, first + values.shape[0])
  if start < stop:
    rest = tuple(slice(*s) for s in span[1:])
    buffer[start - span[0][0] : stop - span[0][0]] = values[
      (slice(start - first, stop - first), *rest)
    ]


def _aligned(shape, dtype) -> np.ndarray:
  """Allocates an array that JAX on CPU uses without a copy."""
  dtype = np.dtype(dtype)
  size = math.prod(shape) * dtype.itemsize
  memory = np.empty(size + _ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % _ALIGNMENT
  return memory[start : start + size].view(dtype).reshape(shape)
