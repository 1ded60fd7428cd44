"""Lazy tensors, which are read from their file on demand.

Readers return `Stored` tensors with shape and dtype, whose values are read by
`fetch`, so that a model is never in memory twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math

import numpy as np

MOST_TENSORS = 10**5  # Limit of one file; a model has some hundreds.
_PIECE = 64 * 2**20  # Bytes in memory at once, if rows are small enough.
_MOST_AXES = 32
_MOST_NAME = 1000  # Characters.


def is_name(key: object) -> bool:
  """Whether the key can name a tensor: printable text of limited length."""
  return (
    isinstance(key, str) and 0 < len(key) <= _MOST_NAME and (key.isprintable())
  )


def is_shape(sizes: object) -> bool:
  """Whether these are valid sizes of axes with a product below 2**56."""
  return (
    isinstance(sizes, list | tuple)
    and len(sizes) <= _MOST_AXES
    and all(type(n) is int and 0 <= n < 2**56 for n in sizes)
    and math.prod(max(n, 1) for n in sizes) < 2**56
  )


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor in a file.

  Attributes:
    fetch: (start, stop) -> those rows of the leading axis, as an array that
      the caller owns; for a scalar, fetch(0, 1) returns it.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  fetch: Callable[[int, int], np.ndarray]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def read(self) -> np.ndarray:
    """The entire tensor."""
    return self.fetch(0, self.shape[0] if self.shape else 1)

  def pieces(self) -> Iterator[memoryview]:
    """Yields the bytes in C order, some rows at a time."""
    if not self.shape or not self.nbytes:
      yield memoryview(self.read().tobytes())
      return
    step = max(1, _PIECE * self.shape[0] // self.nbytes)
    for start in range(0, self.shape[0], step):
      part = self.fetch(start, min(start + step, self.shape[0]))
      yield memoryview(np.ascontiguousarray(part).reshape(-1).view(np.uint8))

  def rows(self, start: int, stop: int) -> 'Stored':
    """Rows start to stop of the leading axis."""
    return Stored(
      (stop - start, *self.shape[1:]),
      self.dtype,
      lambda a, b: self.fetch(start + a, start + b),
    )

  def reshape(self, shape: Sequence[int]) -> 'Stored':
    """The same values in another shape with the same leading axis."""
    if tuple(shape[:1]) != self.shape[:1] or math.prod(shape) != math.prod(
      self.shape
    ):
      raise ValueError(f'{self.shape} cannot become {tuple(shape)}.')
    return Stored(
      tuple(shape),
      self.dtype,
      lambda a, b: self.fetch(a, b).reshape(b - a, *shape[1:]),
    )


def stored(array: np.ndarray) -> Stored:
  """An array in memory as a `Stored` tensor."""
  fetch = lambda a, b: array[a:b] if array.ndim else array
  return Stored(array.shape, array.dtype, fetch)


def as_stored(
  tensors: Mapping[str, 'np.ndarray | Stored'],
) -> dict[str, Stored]:
  """Converts arrays to `Stored` tensors."""
  return {
    key: t if isinstance(t, Stored) else stored(np.asarray(t))
    for key, t in tensors.items()
  }


def concatenate(tensors: Sequence[Stored]) -> Stored:
  """Concatenation along the leading axis, which is always read in full."""
  whole = lambda: np.concatenate([t.read() for t in tensors])
  rows = sum(t.shape[0] for t in tensors)
  return Stored(
    (rows, *tensors[0].shape[1:]), tensors[0].dtype, lambda a, b: whole()[a:b]
  )
