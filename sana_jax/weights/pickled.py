"""The pickles inside torch's checkpoints, read without running them.

Python's unpickler imports and calls what a file names. Here the opcodes are
walked by hand: a file can name the few things below, which become tensors,
dicts, lists, tuples, numbers and text, and nothing is ever looked up or called.
"""

from collections.abc import Mapping, Sequence
import itertools
import pickle  # For the names of the opcodes only.
import pickletools
import struct
from typing import Any, NamedTuple
import warnings

import jax.numpy as jnp
import numpy as np

_DTYPES = {
  'DoubleStorage': np.float64, 'FloatStorage': np.float32,
  'HalfStorage': np.float16, 'BFloat16Storage': jnp.bfloat16,
  'LongStorage': np.int64, 'IntStorage': np.int32, 'ShortStorage': np.int16,
  'CharStorage': np.int8, 'ByteStorage': np.uint8, 'BoolStorage': np.bool_}
DTYPES = {f'torch.{name}': np.dtype(t) for name, t in _DTYPES.items()}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDERED_DICT = 'collections.OrderedDict'
_TENSOR = 'torch._utils._rebuild_tensor_v2'
_OLD_TENSOR = 'torch._utils._rebuild_tensor'
_PARAMETERS = ('torch._utils._rebuild_parameter',
               'torch._utils._rebuild_parameter_with_state')
_SIZE = 'torch.Size'
_KNOWN = {
  *DTYPES, _ORDERED_DICT, _TENSOR, _OLD_TENSOR, *_PARAMETERS, _SIZE}


class Refused(Exception):
  """What stands in the file that is none of the above."""


class Storage(NamedTuple):
  """A run of numbers in a file of its own inside the checkpoint."""

  dtype: np.dtype
  key: str
  count: int


class Tensor(NamedTuple):
  """A view of a storage; offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Global(NamedTuple):
  name: str


_VALUES = {
  'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT',
  'BINFLOAT', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'}
_FRESH = {
  'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False,
  'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_PUT = {'PUT', 'BINPUT', 'LONG_BINPUT'}
_GET = {'GET', 'BINGET', 'LONG_BINGET'}


def loads(data: bytes) -> Any:
  """What the pickle holds, with `Tensor` for every tensor.

  Raises Refused for anything else in it, and for a damaged pickle.
  """
  try:
    return _run(data)
  except (ArithmeticError, LookupError, TypeError, ValueError) as e:
    raise Refused(f'a damaged list of tensors ({e})') from e


def _run(data):
  machine = _Machine()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Of odd escapes in damaged text.
    for opcode, argument, _ in pickletools.genops(data):
      if opcode.name == 'STOP':
        return machine.stack.pop()
      machine.step(opcode.name, argument)
  raise ValueError('no end')


class _Machine:
  """The pickle's stack, marks and memo."""

  def __init__(self):
    self.stack, self.below, self.memo = [], [], {}

  def step(self, name: str, argument: Any) -> None:
    """One opcode."""
    if name in _VALUES:
      self.stack.append(argument)
    elif name in _FRESH:
      self.stack.append(_FRESH[name]())
    elif name in _PUT:
      self.memo[argument] = self.stack[-1]
    elif name in _GET:
      self.stack.append(self.memo[argument])
    elif name in _TUPLES:
      self.stack[-_TUPLES[name]:] = [tuple(self.stack[-_TUPLES[name]:])]
    elif name == 'GLOBAL':
      self.name_global(argument.replace(' ', '.'))
    elif handler := _HANDLERS.get(name):
      handler(self)
    else:
      what = f' {argument!r}' if isinstance(argument, str) else ''
      raise Refused(f'the operation {name}{what}{self.place()}')

  def popped_to_mark(self) -> list:
    """What was pushed since the last mark."""
    items, self.stack = self.stack, self.below.pop()
    return items

  def name_global(self, name: str) -> None:
    """The only way into a pickle for something that is not plain data."""
    if name not in _KNOWN:
      raise Refused(f'{name!r}{self.place()}')
    self.stack.append(_Global(name))

  def place(self) -> str:
    """The keys under which the next value would have stood, if it is clear."""
    keys = []
    for level, deeper in itertools.pairwise([[], *self.below, self.stack]):
      if level and isinstance(level[-1], dict):
        found = [x for x in deeper[::2] if isinstance(x, str)]
      else:
        found = [b for a, b in itertools.pairwise(deeper)
                 if isinstance(a, dict) and isinstance(b, str)]
      keys += found[-1:]
    return f' (under {".".join(keys)})' if keys else ''


def _mark(m):
  m.below.append(m.stack)
  m.stack = []


def _tuple(m):
  items = m.popped_to_mark()
  m.stack.append(tuple(items))


def _list(m):
  items = m.popped_to_mark()
  m.stack.append(items)


def _dict(m):
  items = m.popped_to_mark()
  m.stack.append({})
  _set(m.stack[-1], items)


def _append(m):
  item = m.stack.pop()
  _extend(m.stack[-1], [item])


def _appends(m):
  items = m.popped_to_mark()
  _extend(m.stack[-1], items)


def _setitem(m):
  value, key = m.stack.pop(), m.stack.pop()
  _set(m.stack[-1], [key, value])


def _setitems(m):
  items = m.popped_to_mark()
  _set(m.stack[-1], items)


def _memoize(m):
  m.memo[len(m.memo)] = m.stack[-1]


def _stack_global(m):
  name, module = m.stack.pop(), m.stack.pop()
  m.name_global(f'{module}.{name}')


def _build(m):
  """Attributes of a state dict (its `_metadata`), which no one needs."""
  m.stack.pop()
  if not isinstance(m.stack[-1], dict):
    raise Refused(f'an object with attributes of its own{m.place()}')


def _storage(m):
  # Before torch 1.6 there may be a sixth, for a part of another storage.
  kind, storage, key, _, count, *part = m.stack.pop()
  if kind != 'storage' or not isinstance(key, str) or part not in ([], [None]):
    raise ValueError('a storage of another kind')
  m.stack.append(Storage(DTYPES[storage.name], key, _whole([count])[0]))


def _reduce(m):
  args, function = m.stack.pop(), m.stack.pop()
  if not isinstance(function, _Global):
    raise ValueError('a call of what cannot be called')
  m.stack.append(_made(function.name, args))


_HANDLERS = {
  'PROTO': lambda m: None, 'FRAME': lambda m: None, 'MARK': _mark,
  'TUPLE': _tuple, 'LIST': _list, 'DICT': _dict, 'APPEND': _append,
  'APPENDS': _appends, 'SETITEM': _setitem, 'SETITEMS': _setitems,
  'MEMOIZE': _memoize, 'STACK_GLOBAL': _stack_global, 'BUILD': _build,
  'BINPERSID': _storage, 'REDUCE': _reduce}


def _extend(target, items):
  if not isinstance(target, list):
    raise ValueError('items of no list')
  target += items


def _set(target, items):
  if not isinstance(target, dict):
    raise ValueError('keys of no dict')
  keys = items[::2]
  # Not tuples: hashing those that are nested deeply ends the process.
  if len(items) % 2 or not all(
      k is None or isinstance(k, str | int | float) for k in keys):
    raise ValueError('a key that is neither text nor number')
  target.update(zip(keys, items[1::2], strict=True))


def _made(name, args):
  """What a call of one of the known names stands for."""
  if name == _ORDERED_DICT and args == ():
    return {}
  if name == _SIZE:
    return _whole(*args)
  if name in _PARAMETERS and isinstance(args[0], Tensor):
    return args[0]
  if name in (_TENSOR, _OLD_TENSOR) and isinstance(args[0], Storage):
    (offset,), shape, strides = _whole([args[1]]), _whole(args[2]), _whole(
      args[3])
    if len(shape) == len(strides):
      return Tensor(args[0], offset, shape, strides)
  raise ValueError(f'a call of {name} with other arguments')


def _whole(numbers: Sequence) -> tuple[int, ...]:
  if not all(type(n) is int and n >= 0 for n in numbers):
    raise ValueError(f'{numbers} where sizes are needed')
  return tuple(numbers)


def dumps(tensors: Mapping[str, Tensor], wrap: str) -> bytes:
  """The pickle that torch writes for {wrap: OrderedDict(tensors)}."""
  items = b''.join(_text(name) + _pickled(t) for name, t in tensors.items())
  return b''.join([
    pickle.PROTO, b'\x02', pickle.EMPTY_DICT, _text(wrap), _EMPTY_ORDERED_DICT,
    pickle.MARK, items, pickle.SETITEMS, pickle.SETITEM, pickle.STOP])


def _pickled(tensor):
  storage = tensor.storage
  where = _tuple_of(
    _text('storage'), _global(_NAMES[storage.dtype]), _text(storage.key),
    _text('cpu'), _number(storage.count)) + pickle.BINPERSID
  return _global(_TENSOR) + _tuple_of(
    where, _number(tensor.offset), _tuple_of(*map(_number, tensor.shape)),
    _tuple_of(*map(_number, tensor.strides)), pickle.NEWFALSE,
    _EMPTY_ORDERED_DICT) + pickle.REDUCE


def _text(value):
  data = value.encode()
  return pickle.BINUNICODE + struct.pack('<I', len(data)) + data


def _number(value):
  if value < 2**31:
    return pickle.BININT + struct.pack('<i', value)
  data = pickle.encode_long(value)
  return pickle.LONG1 + bytes([len(data)]) + data


def _global(name):
  module, _, name = name.rpartition('.')
  return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def _tuple_of(*items):
  return pickle.MARK + b''.join(items) + pickle.TUPLE


_EMPTY_ORDERED_DICT = (
  _global(_ORDERED_DICT) + pickle.EMPTY_TUPLE + pickle.REDUCE)
