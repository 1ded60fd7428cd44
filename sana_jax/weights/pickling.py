"""Writer of torch's pickle of a dict of tensors, without torch."""

from collections.abc import Mapping
import pickle  # For the names of the operations only.
import struct

from sana_jax.weights.pickled import DTYPES, ORDERED_DICT, TENSOR, Tensor

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dumps(tensors: Mapping[str, Tensor], wrap: str) -> bytes:
  """Pickle of {wrap: OrderedDict(tensors)}."""
  items = b''.join(_text(name) + _pickled(t) for name, t in tensors.items())
  return b''.join(
    [
      pickle.PROTO,
      b'\x02',
      pickle.EMPTY_DICT,
      _text(wrap),
      _EMPTY_ORDERED_DICT,
      pickle.MARK,
      items,
      pickle.SETITEMS,
      pickle.SETITEM,
      pickle.STOP,
    ]
  )


def _pickled(tensor):
  storage = tensor.storage
  where = (
    _tuple_of(
      _text('storage'),
      _global(_NAMES[storage.dtype]),
      _text(storage.key),
      _text('cpu'),
      _number(storage.count),
    )
    + pickle.BINPERSID
  )
  return (
    _global(TENSOR)
    + _tuple_of(
      where,
      _number(tensor.offset),
      _tuple_of(*map(_number, tensor.shape)),
      _tuple_of(*map(_number, tensor.strides)),
      pickle.NEWFALSE,
      _EMPTY_ORDERED_DICT,
    )
    + pickle.REDUCE
  )


def _text(value):
  data = value.encode()
  return pickle.BINUNICODE + struct.pack('<I', len(data)) + data


def _number(value):
  if value < 2**31:
    return pickle.BININT + struct.pack('<i', value)
  data = pickle.encode_long(value)
  return pickle.LONG1 + bytes([len(data)]) + data


def _global(named):
  return pickle.GLOBAL + f'{named.module}\n{named.name}\n'.encode()


def _tuple_of(*items):
  return pickle.MARK + b''.join(items) + pickle.TUPLE


_EMPTY_ORDERED_DICT = _global(ORDERED_DICT) + pickle.EMPTY_TUPLE + pickle.REDUCE
