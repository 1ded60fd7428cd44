"""Safe interpreter of pickles, which imports and calls nothing.

A pickle is a program, and Python's unpickler imports and calls what it names.
This one creates dicts, lists, tuples, numbers and short text; anything else
becomes an `Inert`, which has only a name, unless the caller handles it.

A `pickle.Unpickler` with its own find_class would be shorter, but its time and
memory are unbounded. It hashes the keys of a dict before any code of ours runs:
1 MB of nested tuples as a key overflows the stack of the process, and 300 bytes
of a tuple that is doubled 60 times take years. A single index of the memo, 8
bytes, makes it allocate 16 GB. The bounds here are

  operations   2**20, each of constant time and memory
  text         1,000 bytes; longer text is skipped and becomes `Inert`
  integers     64 bits; larger ones become `Inert`
  keys         short text only, whose hash Python seeds

Scalars may thus be compared and printed. A dict, list or tuple may contain
itself, so it must not be formatted, compared or traversed.
"""

from collections.abc import Callable, Collection, Mapping
import io
import pickle  # For the names of the operations only.
import struct
from typing import Any, NamedTuple

from sana_jax.printable import printable

MOST_OPERATIONS = 2**20  # A tensor takes about 40.
_MOST_TEXT = 1000  # Bytes of a text.
_MOST_LINE = 2**16  # Bytes of an argument that ends with a newline.
_MOST_NAMES = 20  # Unknown names stored for a message.


class Refused(ValueError):
  """The pickle is damaged, or larger than that of any checkpoint.

  Attributes:
    position: bytes of the file up to the operation that is refused.
  """

  def __init__(self, reason: str, position: int):
    super().__init__(reason)
    self.position = position


class Inert(NamedTuple):
  """Placeholder for a function, a class or an object of a pickle."""

  module: str
  name: str

  def __str__(self):
    return printable(f'{self.module}.{self.name}'.lstrip('.'), 200)


OTHER_KEYS = Inert('', 'keys that are not short text')
_LONG_TEXT = Inert('', 'long text')


class Machine:
  """Interpreter with a pickle's stack, marks and memo.

  Attributes:
    known: names that `call` or `persistent` handle.
    call: (function, arguments) -> the result of a call.
    persistent: (persistent id) -> the object.
    names: some of the unknown names.
  """

  def __init__(
    self,
    file: io.BufferedIOBase,
    end: int,
    known: Collection[Inert] = (),
    call: Callable[[Inert, tuple], Any] = lambda function, args: function,
    persistent: Callable[[Any], Any] = lambda value: Inert('', 'object'),
  ):
    self.file, self.end = file, end
    self.known, self.call, self.persistent = known, call, persistent
    self.stack, self.below, self.memo, self.names = [], [], {}, {}

  def run(self) -> Any:
    """Reads the pickle at the file's position and returns its value.

    Raises Refused.
    """
    try:
      for _ in range(MOST_OPERATIONS):
        operation = self.file.read(1)
        if operation == pickle.STOP:
          return self.stack.pop()
        step = _STEPS.get(operation)
        if step is None:
          raise ValueError(
            f'no operation {operation!r}' if operation else 'it is cut short'
          )
        step(self)
      raise ValueError(f'with more than {MOST_OPERATIONS} operations')
    except (
      ArithmeticError,
      LookupError,
      TypeError,
      ValueError,
      struct.error,
    ) as e:
      raise Refused(
        f'a damaged list of tensors, {printable(e, 200)}', self.file.tell()
      ) from e

  def unpacked(self, layout: struct.Struct) -> Any:
    """Number that is the argument of the operation."""
    return layout.unpack(self.file.read(layout.size))[0]

  def sized(self, layout: struct.Struct, most: int) -> bytes | None:
    """Argument with a size prefix; None, and skipped, if longer than `most`."""
    size, start = self.unpacked(layout), self.file.tell()
    if not 0 <= size <= self.end - start:
      raise ValueError('it is cut short')
    if size <= most:
      return self.file.read(size)
    self.file.seek(start + size)
    return None

  def line(self, encoding: str = 'utf-8') -> str:
    """Argument up to a newline."""
    line = self.file.readline(_MOST_LINE)
    if not line.endswith(b'\n'):
      raise ValueError('a line without an end')
    return line[:-1].decode(encoding)

  def popped_to_mark(self) -> list:
    """Pops the values since the last mark."""
    items, self.stack = self.stack, self.below.pop()
    return items

  def name(self, module: Any, name: Any) -> None:
    """Pushes the placeholder of a function or a class."""
    if not (isinstance(module, str) and isinstance(name, str)):
      raise ValueError('a name that is not text')
    named = Inert(module, name)
    if named not in self.known and len(self.names) < _MOST_NAMES:
      self.names[named] = None
    self.stack.append(named)


def described(value: Any) -> str:
  """Short description of a value, without its elements."""
  if isinstance(value, Inert):
    return str(value)
  if value is None or isinstance(value, bool | int | float):
    return repr(value)
  return {str: 'text'}.get(type(value), type(value).__name__.lower())


def as_dict(items: list) -> dict[str | Inert, Any]:
  """Dict of alternating keys and values; non-text keys share one entry."""
  if len(items) % 2:
    raise ValueError('keys without values')
  keys = (k if isinstance(k, str) else OTHER_KEYS for k in items[::2])
  return dict(zip(keys, items[1::2], strict=True))


def _text(data):
  return _LONG_TEXT if data is None else data.decode('utf-8', 'surrogatepass')


def _short(line):
  return line if len(line) <= _MOST_TEXT else _LONG_TEXT


def _integer(data):
  return (
    Inert('', 'long number')
    if data is None
    else int.from_bytes(data, 'little', signed=True)
  )


def _decimal(text):
  if text in ('00', '01'):
    return text == '01'
  number = int(text) if len(text) <= 20 else 2**64
  return number if -(2**63) <= number < 2**63 else Inert('', 'long number')


def _mark(m):
  m.below.append(m.stack)
  m.stack = []


def _pop(m):
  if m.stack:
    m.stack.pop()
  else:
    m.popped_to_mark()


def _from_mark(make):
  def step(m):
    items = m.popped_to_mark()
    m.stack.append(make(items))

  return step


def _short_tuple(size):
  def step(m):
    if len(m.stack) < size:
      raise ValueError('a tuple of too few')
    m.stack[-size:] = [tuple(m.stack[-size:])]

  return step


def _extend(m, items):
  target = m.stack[-1]
  if isinstance(target, list):
    target += items
  elif not isinstance(target, Inert):
    raise ValueError('items without a list')


def _set(m, items):
  target, pairs = m.stack[-1], as_dict(items)
  if isinstance(target, dict):
    target.update(pairs)
  elif not isinstance(target, Inert):
    raise ValueError('keys without a dict')


def _setitem(m):
  value, key = m.stack.pop(), m.stack.pop()
  _set(m, [key, value])


def _put(m, index):
  # Text, because the hashes of integers chosen by the file can all collide.
  m.memo[str(index)] = m.stack[-1]


def _get(m, index):
  m.stack.append(m.memo[str(index)])


def _stack_global(m):
  name, module = m.stack.pop(), m.stack.pop()
  m.name(module, name)


def _reduce(m):
  args, function = m.stack.pop(), m.stack.pop()
  if not isinstance(function, Inert) or not isinstance(args, tuple):
    raise ValueError('a call of a value that is not a function')
  m.stack.append(m.call(function, args))


def _new(m):
  """Replaces an instance by the placeholder of its class."""
  m.stack.pop()
  _attributed(m)


def _new_with_names(m):
  m.stack.pop()
  _new(m)


def _old_instance(m):
  m.popped_to_mark()
  m.name(m.line(), m.line())


def _attributed(m):
  if not m.stack:
    raise ValueError('a missing object')


def _attributes(m):
  """Drops the attributes of a state dict (its `_metadata`)."""
  m.stack.pop()
  _attributed(m)


def _each(
  layouts: Mapping[bytes, str], step: Callable[[Machine, struct.Struct], Any]
) -> dict[bytes, Callable[[Machine], Any]]:
  """Steps that differ only in the packing of their argument."""

  def bound(layout):
    return lambda m: step(m, layout)

  return {code: bound(struct.Struct(x)) for code, x in layouts.items()}


def _constant(make):
  return lambda m: m.stack.append(make())


_NUMBERS = {
  pickle.BININT: '<i',
  pickle.BININT1: '<B',
  pickle.BININT2: '<H',
  pickle.BINFLOAT: '>d',
}
_TEXT = {
  pickle.SHORT_BINSTRING: '<B',
  pickle.BINSTRING: '<i',
  pickle.BINUNICODE: '<I',
  pickle.SHORT_BINUNICODE: '<B',
  pickle.BINUNICODE8: '<Q',
}
_BYTES = {
  pickle.SHORT_BINBYTES: '<B',
  pickle.BINBYTES: '<I',
  pickle.BINBYTES8: '<Q',
  pickle.BYTEARRAY8: '<Q',
}
_UNREAD_LINES = {pickle.STRING: 'text', pickle.PERSID: 'object'}
_FRESH = {
  pickle.NONE: lambda: None,
  pickle.NEWTRUE: lambda: True,
  pickle.NEWFALSE: lambda: False,
  pickle.EMPTY_DICT: dict,
  pickle.EMPTY_LIST: list,
  pickle.EMPTY_TUPLE: tuple,
  pickle.EMPTY_SET: lambda: Inert('', 'set'),
  pickle.NEXT_BUFFER: lambda: Inert('', 'bytes'),
}
_STEPS: dict[bytes, Callable[[Machine], Any]] = {
  **_each(_NUMBERS, lambda m, x: m.stack.append(m.unpacked(x))),
  **_each(_TEXT, lambda m, x: m.stack.append(_text(m.sized(x, _MOST_TEXT)))),
  **_each(
    _BYTES, lambda m, x: (m.sized(x, 0), m.stack.append(Inert('', 'bytes')))
  ),
  **_each(
    {pickle.LONG1: '<B', pickle.LONG4: '<i'},
    lambda m, x: m.stack.append(_integer(m.sized(x, 8))),
  ),
  **_each(
    {pickle.BINPUT: '<B', pickle.LONG_BINPUT: '<I'},
    lambda m, x: _put(m, m.unpacked(x)),
  ),
  **_each(
    {pickle.BINGET: '<B', pickle.LONG_BINGET: '<I'},
    lambda m, x: _get(m, m.unpacked(x)),
  ),
  **_each(
    {pickle.EXT1: '<B', pickle.EXT2: '<H', pickle.EXT4: '<i'},
    lambda m, x: m.name('extension', str(m.unpacked(x))),
  ),
  **_each({pickle.PROTO: '<B', pickle.FRAME: '<Q'}, lambda m, x: m.unpacked(x)),
  **{code: _constant(make) for code, make in _FRESH.items()},
  **{
    code: lambda m, name=name: (m.line(), m.stack.append(Inert('', name)))
    for code, name in _UNREAD_LINES.items()
  },
  pickle.INT: lambda m: m.stack.append(_decimal(m.line())),
  pickle.LONG: lambda m: m.stack.append(_decimal(m.line().removesuffix('L'))),
  pickle.UNICODE: lambda m: m.stack.append(
    _short(m.line('raw-unicode-escape'))
  ),
  pickle.FLOAT: lambda m: m.stack.append(float(m.line())),
  pickle.PUT: lambda m: _put(m, m.line()),
  pickle.GET: lambda m: _get(m, m.line()),
  pickle.MEMOIZE: lambda m: _put(m, len(m.memo)),
  pickle.MARK: _mark,
  pickle.POP: _pop,
  pickle.POP_MARK: Machine.popped_to_mark,
  pickle.DUP: lambda m: m.stack.append(m.stack[-1]),
  pickle.TUPLE1: _short_tuple(1),
  pickle.TUPLE2: _short_tuple(2),
  pickle.TUPLE3: _short_tuple(3),
  pickle.TUPLE: _from_mark(tuple),
  pickle.LIST: _from_mark(list),
  pickle.DICT: _from_mark(as_dict),
  pickle.FROZENSET: _from_mark(lambda items: Inert('', 'frozenset')),
  pickle.OBJ: _from_mark(lambda items: items[0]),
  pickle.APPEND: lambda m: _extend(m, [m.stack.pop()]),
  pickle.APPENDS: lambda m: _extend(m, m.popped_to_mark()),
  pickle.ADDITEMS: lambda m: _extend(m, m.popped_to_mark()),
  pickle.SETITEM: _setitem,
  pickle.SETITEMS: lambda m: _set(m, m.popped_to_mark()),
  pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
  pickle.STACK_GLOBAL: _stack_global,
  pickle.INST: _old_instance,
  pickle.REDUCE: _reduce,
  pickle.NEWOBJ: _new,
  pickle.NEWOBJ_EX: _new_with_names,
  pickle.BUILD: _attributes,
  pickle.BINPERSID: lambda m: m.stack.append(m.persistent(m.stack.pop())),
  pickle.READONLY_BUFFER: _attributed,
}
