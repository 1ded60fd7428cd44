"""Pickles in torch's checkpoints.

Tensors of dense storages are supported; every other object, such as an
optimizer or a random state of NumPy, becomes `Inert` (see safe_pickle.py).
"""

from collections.abc import Collection, Mapping
import io
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sana_jax.weights import safe_pickle
from sana_jax.weights.safe_pickle import Inert
from sana_jax.weights.tensors import is_shape

_DTYPES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': jnp.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}
DTYPES = {Inert('torch', name): np.dtype(t) for name, t in _DTYPES.items()}
# Bytes per element of other storages, which are skipped.
_OPAQUE = {
  Inert('torch', 'ComplexFloatStorage'): 8,
  Inert('torch', 'ComplexDoubleStorage'): 16,
  Inert('torch', 'QInt8Storage'): 1,
  Inert('torch', 'QUInt8Storage'): 1,
  Inert('torch', 'QInt32Storage'): 4,
  Inert('torch.storage', 'UntypedStorage'): 1,
}
_STORAGES = DTYPES | {k: np.dtype(f'V{size}') for k, size in _OPAQUE.items()}
ORDERED_DICT = Inert('collections', 'OrderedDict')
TENSOR = Inert('torch._utils', '_rebuild_tensor_v2')
_TENSORS = (TENSOR, Inert('torch._utils', '_rebuild_tensor'))
_PARAMETERS = (
  Inert('torch._utils', '_rebuild_parameter'),
  Inert('torch._utils', '_rebuild_parameter_with_state'),
)
_SIZE = Inert('torch', 'Size')
_KNOWN = {*_STORAGES, ORDERED_DICT, *_TENSORS, *_PARAMETERS, _SIZE}


class Storage(NamedTuple):
  """Elements of one or more tensors, contiguous in the checkpoint."""

  dtype: np.dtype
  key: str
  count: int


class Tensor(NamedTuple):
  """A view of a storage; offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Pickle(NamedTuple):
  """Content of a pickle.

  Attributes:
    storages: all its storages, including those of skipped objects.
    names: some of the unknown functions and classes that it names.
  """

  value: Any
  storages: Mapping[str, Storage]
  names: tuple[str, ...]


class Checkpoint(NamedTuple):
  """Content of a file.

  Attributes:
    places: key of a storage -> its position and bytes.
    swapped: whether the byte order is not that of this machine.
  """

  pickle: Pickle
  places: Mapping[str, tuple[int, int]]
  swapped: bool


class DamagedPart(ValueError):
  """Damage of a checkpoint.

  Attributes:
    part: the member or storage.
    allowed: the allowed values, or a condition in words.
  """

  def __init__(self, reason: str, part: str, allowed: Collection[Any] | str):
    super().__init__(reason)
    self.part, self.allowed = part, allowed


def load(file: io.BufferedIOBase, end: int) -> Pickle:
  """Reads the pickle at the file's position.

  Args:
    end: the size of the file.

  Raises safe_pickle.Refused for a damaged one.
  """
  storages = {}

  def persistent(value):
    if (storage := _storage(value)) is None:
      return Inert('', 'storage of another kind')
    storages[storage.key] = storage
    return storage

  machine = safe_pickle.Machine(file, end, _KNOWN, _made, persistent)
  value = machine.run()
  return Pickle(value, storages, tuple(map(str, machine.names)))


def _storage(value):
  """Storage of an id ('storage', class, key, device, count), or None."""
  # Before torch 1.6 there may be a sixth item, for a view of another storage.
  if (
    not isinstance(value, tuple)
    or len(value) not in (5, 6)
    or (value[5:] and value[5] is not None)
  ):
    return None
  kind, storage, key, _, count = value[:5]
  if not (
    isinstance(kind, str)
    and kind == 'storage'
    and isinstance(key, str)
    and isinstance(storage, Inert)
    and storage in _STORAGES
    and is_shape([count])
  ):
    return None
  return Storage(_STORAGES[storage], key, count)


def _made(function, args):
  """Tensor, dict or sizes that a call returns."""
  first = args[0] if args else None
  if function == ORDERED_DICT and not args:
    return {}
  if function == ORDERED_DICT and isinstance(first, list):
    return _ordered(first)
  if function == _SIZE and is_shape(first):
    return tuple(first)
  if function in _PARAMETERS and isinstance(first, Tensor):
    return first
  if (
    function in _TENSORS
    and len(args) > 3
    and isinstance(first, Storage)
    and (first.dtype in DTYPES.values())
  ):
    offset, shape, strides = args[1:4]
    if is_shape([offset]) and is_shape(shape) and _are_strides(strides, shape):
      return Tensor(first, offset, tuple(shape), tuple(strides))
  return function


def _ordered(pairs):
  """OrderedDict from Python 2's pickle of it, a list of pairs."""
  if not all(isinstance(x, list | tuple) and len(x) == 2 for x in pairs):
    raise ValueError('keys without values')
  out = safe_pickle.as_dict([x for pair in pairs for x in pair])
  pairs.clear()  # Bounds the work, as many calls may share one list.
  return out


def _are_strides(strides, shape):
  return (
    isinstance(strides, list | tuple)
    and len(strides) == len(shape)
    and (all(type(s) is int and 0 <= s < 2**56 for s in strides))
  )
