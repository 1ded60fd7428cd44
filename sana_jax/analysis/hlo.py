"""The text of a compiled program: what it runs, how often, and where from.

XLA's own cost analysis counts the body of a loop once and is silent about
CUDA; the text has everything, for TPUs and GPUs alike.
"""

from collections.abc import Iterator, Mapping
import functools
import math
import re
from typing import NamedTuple

_BITS = {'pred': 8, 'token': 0, 'opaque': 0}  # Of the others, the name says.
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_COMPUTATION = re.compile(r'(ENTRY )?%?([^\s(]+) \(.*\{$')
_HEAD = re.compile(r'\s+(ROOT )?%?(\S+) = ')
_CALLS = ('call', 'async-start', 'call-start')  # The last: a 7x's SparseCore.
_NAMES = re.compile(r'%([^\s,(){}]+)')


class Instruction(NamedTuple):
  """One line."""

  name: str
  opcode: str
  shape: str
  operands: tuple[str, ...]
  arguments: str  # What stands between the parentheses.
  attributes: str
  is_root: bool

  def called(self, key: str = 'calls') -> str:
    """The computation that an attribute names; '' for none."""
    found = re.search(rf'\b{key}=%?([^\s,}}]+)', self.attributes)
    return found[1] if found else ''


class Array(NamedTuple):
  """One array of a shape; `space` is 0 in a device's main memory."""

  dtype: str
  sizes: tuple[int, ...]
  bytes: int  # With the padding of its tiles.
  space: int


class Step(NamedTuple):
  """An instruction that runs `times` times, and what is around it.

  `beside` other work, what a device starts and later waits for.
  """

  instruction: Instruction
  computation: str
  times: int
  beside: bool = False


class Module(NamedTuple):
  """A program."""

  computations: Mapping[str, Mapping[str, Instruction]]
  entry: str
  lines: Mapping[int, str]  # Stack frame -> file:line.

  def steps(
    self, within: str = '', times: int = 1, beside: bool = False
  ) -> Iterator[Step]:
    """All that runs, loops and calls included; a fusion is one step."""
    within = within or self.entry
    for x in self.computations[within].values():
      if x.opcode == 'while':
        again = times * self.trips(x)
        yield from self.steps(x.called('body'), again, beside)
      elif x.opcode in _CALLS:
        yield Step(x, within, times, beside)
        if (inner := x.called('to_apply') or x.called()) in self.computations:
          yield from self.steps(inner, times, beside or x.opcode != 'call')
      elif x.opcode == 'conditional':
        for branch in _branches(x):
          yield from self.steps(branch, times, beside)
      else:
        yield Step(x, within, times, beside)

  def instructions(self) -> Iterator[Instruction]:
    """All of them, whether they run or not."""
    for computation in self.computations.values():
      yield from computation.values()

  def trips(self, loop: Instruction) -> int:
    """How often a loop runs: as XLA says, or as its condition does."""
    known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.attributes)
    if known:
      return int(known[1])
    condition = self.computations[loop.called('condition')]
    limits = [
      int(x.arguments)
      for x in condition.values()
      if x.opcode == 'constant' and x.shape.startswith(('s32', 'u32'))
    ]
    return max([1, *limits])

  def inside(self, fusion: Instruction) -> list[Instruction]:
    """What a fusion is made of."""
    return list(self.computations.get(fusion.called(), {}).values())

  def source(self, x: Instruction) -> str:
    """Our own line that an instruction comes from, and what JAX calls it."""
    roots = (i.attributes for i in self.inside(x) if i.is_root)
    said, parts = ' '.join([x.attributes, *roots]), []
    if found := re.search(r'source_file="([^"]*)" source_line=(\d+)', said):
      parts.append(f'{_short(found[1])}:{found[2]}')
    elif found := re.search(r'stack_frame_id=(\d+)', said):
      parts.append(self.lines.get(int(found[1]), ''))
    if found := re.search(r'op_name="([^"]*)"', said):
      parts.append(found[1].rpartition(')/')[2])
    return ' '.join(filter(None, parts))


def parse(text: str) -> Module:
  """The module of `compiled.as_text()`."""
  computations, entry, current = {}, '', None
  for line in text.splitlines():
    if current is not None and line.startswith('}'):
      current = None
    elif head := (line[:1] not in (' ', '') and _COMPUTATION.match(line)):
      current = computations.setdefault(head[2], {})
      entry = head[2] if head[1] else entry
    elif current is not None and (x := _instruction(line)):
      current[x.name] = x
  return Module(computations, entry, _frames(text))


def arrays(shape: str) -> list[Array]:
  """Those of a shape, which may be a tuple."""
  return [
    _array(*m.groups())
    for m in _ARRAY.finditer(shape)
    if m[1] in _BITS or re.fullmatch(r'[a-z]+\d+\w*', m[1])
  ]


def size(shape: str) -> int:
  """Bytes, as they are without padding, wherever they lie."""
  return sum(math.prod(a.sizes) * bits(a.dtype) // 8 for a in arrays(shape))


def bits(dtype: str) -> int:
  """Of one element: 'bf16', 'f8e4m3fn', 's32'."""
  found = re.match(r'[a-z]+(\d+)', dtype)
  return _BITS.get(dtype, int(found[1]) if found else 0)


@functools.cache
def _array(dtype, sizes, layout):
  shape = tuple(int(n) for n in sizes.split(',') if n)
  order, _, tiles = (layout or '').partition(':')
  space = re.search(r'S\((\d+)\)', tiles)
  padded = list(shape)
  tile = re.match(r'T\((\d+),(\d+)\)', tiles)
  if tile and len(shape) > 1:
    minor = [int(i) for i in order.split(',')]
    for axis, by in zip(minor, (int(tile[2]), int(tile[1]))):
      padded[axis] = -(-padded[axis] // by) * by
  size = math.prod(padded) * bits(dtype) // 8
  return Array(dtype, shape, size, int(space[1]) if space else 0)


def _instruction(line):
  head = _HEAD.match(line)
  if head is None:
    return None
  rest = line[head.end() :]
  end = _closing(rest) + 1 if rest.startswith('(') else rest.find(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  opcode, paren, _ = rest.partition('(')
  if not paren:
    return None
  end = _closing(rest[len(opcode) :]) + len(opcode)
  arguments, attributes = rest[len(opcode) + 1 : end], rest[end + 1 :]
  called = opcode, shape, tuple(_NAMES.findall(arguments)), arguments
  return Instruction(head[2], *called, attributes, bool(head[1]))


def _closing(text):
  """Where the parenthesis that `text` begins with is closed."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return i
  return len(text)


def _branches(x):
  if found := re.search(r'branch_computations=\{([^}]*)\}', x.attributes):
    return _NAMES.findall(found[1])
  return [x.called('true_computation'), x.called('false_computation')]


def _frames(text):
  """Stack frame -> the nearest line of ours that called it, or its own."""
  tables = {}
  for title in ('FileNames', 'FileLocations', 'StackFrames'):
    found = re.search(rf'^{title}\n((?:\d+ .*\n)*)', text, re.MULTILINE)
    tables[title] = dict(
      row.split(' ', 1) for row in (found[1].splitlines() if found else ())
    )
  value = lambda row, key: re.search(rf'{key}=(\d+)', row)[1]
  lines, parents = {}, {}
  for number, row in tables['StackFrames'].items():
    # XLA writes the parent's number plus 1, and 1 for none.
    parents[int(number)] = int(value(row, 'parent_frame_id')) - 1
    place = tables['FileLocations'].get(value(row, 'file_location_id'), '')
    if place:
      file = tables['FileNames'][value(place, 'file_name_id')].strip('"')
      lines[int(number)] = f'{_short(file)}:{value(place, "line")}'
  return {number: _ours(number, lines, parents) for number in lines}


def _ours(number, lines, parents):
  at = number
  while at in lines:
    if lines[at].startswith(('sana_jax/', 'kernels/')):
      return lines[at]
    at = parents[at] if parents[at] < at else 0
  return lines[number]


def _short(file):
  """A path from the package's folders on."""
  found = re.search(r'(?:sana_jax|kernels|site-packages)/.*', file)
  return found[0].removeprefix('site-packages/') if found else file
