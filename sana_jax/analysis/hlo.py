"""Parser of HLO text: instructions, trip counts and source lines.

XLA's cost analysis counts the body of a loop once and does not cover CUDA; the
text covers TPUs and GPUs alike.
"""

from collections.abc import Iterator, Mapping
import functools
import math
import re
from typing import NamedTuple

_BITS = {'pred': 8, 'token': 0, 'opaque': 0}  # Other names contain it.
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_COMPUTATION = re.compile(r'(ENTRY )?%?([^\s(]+) \(.*\{$')
_HEAD = re.compile(r'\s+(ROOT )?%?(\S+) = ')
_CALLS = (
  'call',
  'async-start',
  'call-start',
)  # The last: a SparseCore.
_NAMES = re.compile(r'%([^\s,(){}]+)')


class Instruction(NamedTuple):
  """One instruction, from its line of text."""

  name: str
  opcode: str
  shape: str
  operands: tuple[str, ...]
  arguments: str  # Text between the parentheses.
  attributes: str
  is_root: bool

  def called(self, key: str = 'calls') -> str:
    """Computation named by an attribute; '' if absent."""
    found = re.search(rf'\b{key}=%?([^\s,}}]+)', self.attributes)
    return found[1] if found else ''


class Array(NamedTuple):
  """An array of a shape; `space` is 0 in a device's main memory."""

  dtype: str
  sizes: tuple[int, ...]
  bytes: int  # With the padding of its tiles.
  space: int


class Step(NamedTuple):
  """An instruction that runs `times` times, and its computation.

  `beside`: whether it is asynchronous.
  """

  instruction: Instruction
  computation: str
  times: int
  beside: bool = False


class Module(NamedTuple):
  """Computations of a program by name."""

  computations: Mapping[str, Mapping[str, Instruction]]
  entry: str
  lines: Mapping[int, str]  # Stack frame -> file:line.

  def steps(
    self, within: str = '', times: int = 1, beside: bool = False
  ) -> Iterator[Step]:
    """Instructions that run, through loops and calls; a fusion is one."""
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
    """All instructions of the text."""
    for computation in self.computations.values():
      yield from computation.values()

  def trips(self, loop: Instruction) -> int:
    """Trip count of a loop, by XLA's annotation or by its condition."""
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
    """Instructions of a fusion."""
    return list(self.computations.get(fusion.called(), {}).values())

  def source(self, x: Instruction) -> str:
    """Project line that an instruction comes from, and its name in JAX."""
    roots = (i.attributes for i in self.inside(x) if i.is_root)
    text, parts = ' '.join([x.attributes, *roots]), []
    if found := re.search(r'source_file="([^"]*)" source_line=(\d+)', text):
      parts.append(f'{_short(found[1])}:{found[2]}')
    elif found := re.search(r'stack_frame_id=(\d+)', text):
      parts.append(self.lines.get(int(found[1]), ''))
    if found := re.search(r'op_name="([^"]*)"', text):
      parts.append(found[1].rpartition(')/')[2])
    return ' '.join(filter(None, parts))


def parse(text: str) -> Module:
  """Parses `compiled.as_text()`."""
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
  """Arrays of a shape, which may be a tuple."""
  return [
    _array(*m.groups())
    for m in _ARRAY.finditer(shape)
    if m[1] in _BITS or re.fullmatch(r'[a-z]+\d+\w*', m[1])
  ]


def size(shape: str) -> int:
  """Bytes of a shape without padding, in any memory."""
  return sum(math.prod(a.sizes) * bits(a.dtype) // 8 for a in arrays(shape))


def bits(dtype: str) -> int:
  """Bits of an element of type 'bf16', 'f8e4m3fn', 's32'."""
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
  """Index that closes the parenthesis at the start of `text`."""
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
  """Stack frame -> nearest project line among its callers, or its own."""
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
  return {number: _project_line(number, lines, parents) for number in lines}


def _project_line(number, lines, parents):
  at = number
  while at in lines:
    if lines[at].startswith(('sana_jax/', 'kernels/')):
      return lines[at]
    at = parents[at] if parents[at] < at else 0
  return lines[number]


def _short(file):
  """Path relative to the project's root."""
  found = re.search(r'(?:sana_jax|kernels|site-packages)/.*', file)
  return found[0].removeprefix('site-packages/') if found else file
