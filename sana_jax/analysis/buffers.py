"""Buffers of a compiled program in device memory, as XLA assigns them.

Parsed from XLA's dump (`xla_dump_to`), which also covers programs that are too
large.
"""

import pathlib
import re
from typing import NamedTuple

from sana_jax.analysis import hlo

_ALLOCATION = re.compile(r'allocation \d+: size (\d+)(.*):$')
_VALUE = re.compile(
  r' value: <\d+ ([^\s{]+)\S* @\d+> \(size=(\d+),offset=(\d+)\): (.*)'
)


class Temporary(NamedTuple):
  """An array that lives for a part of the step."""

  bytes: int
  shape: str
  source: str  # Line of this project, and JAX's name of the operation.


class Arrangement(NamedTuple):
  """Bytes of arguments and results, and of temporaries."""

  arguments: int
  temporaries: int
  largest: list[Temporary]

  @property
  def total(self) -> int:
    return self.arguments + self.temporaries


def read(folder: pathlib.Path, count: int = 10) -> Arrangement | None:
  """Buffers of the newest program in a dump folder; None if it has none."""
  plans = folder.glob('*after_optimizations-buffer-assignment.txt')
  plan = max(plans, key=lambda p: p.stat().st_size, default=None)
  if plan is None:
    return None
  program = plan.with_name(plan.name.replace('-buffer-assignment', ''))
  module = hlo.parse(program.read_text()) if program.exists() else None
  return arrange(plan.read_text(), module, count)


def arrange(text: str, module: hlo.Module | None, count: int) -> Arrangement:
  """Parses XLA's text; `module` gives the source of an array."""
  arguments = temporaries = 0
  kind, values = '', []
  for line in text.splitlines():
    if line.startswith('Used values'):
      break
    if found := _ALLOCATION.match(line):
      kind = found[2]
      if 'color' in kind or 'thread-local' in kind or 'constant' in kind:
        continue
      if 'temp' in kind:
        temporaries += int(found[1])
      elif 'parameter' in kind or 'live-out' in kind:
        arguments += int(found[1])
    elif (
      'temp' in kind and 'color' not in kind and (found := _VALUE.match(line))
    ):
      values.append((int(found[2]), int(found[3]), found[1], found[4]))
  return Arrangement(arguments, temporaries, _largest(values, module, count))


def _largest(values, module, count):
  """The largest temporaries; those that share memory count as one."""
  sources = {x.name: x for x in module.instructions()} if module else {}
  taken, found = [], []
  for size, offset, name, shape in sorted(values, key=lambda v: -v[0]):
    if len(found) == count:
      break
    if any(offset < end and start < offset + size for start, end in taken):
      continue
    taken.append((offset, offset + size))
    source = module.source(sources[name]) if name in sources else name
    found.append(Temporary(size, re.sub(r'\{[^}]*\}', '', shape), source))
  return found
