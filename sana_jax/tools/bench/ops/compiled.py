"""Operations compiled for devices that are not here.

The real compiler says what memory a program needs, how often it reads and
writes it and which kernels it calls; it does not say how long that takes.
"""

from collections.abc import Sequence
import dataclasses
import re
import time

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding

from sana_jax import kernels
from sana_jax.analysis import topologies
from sana_jax.kernels import UnsupportedError
from sana_jax.tools import tables
from sana_jax.tools.bench.compiled import collectives, kernel_calls
from sana_jax.tools.bench.ops.cases import Case
from sana_jax.tools.bench.ops.measure import program

_MIB = 2**20
_HEAD = ('op', 'shape', 'pass', 'by', 'least MiB', 'moved MiB', 'temporary MiB',
         'Mcycles', 'kernels', 'collectives')
_LEFT = 4  # Columns of text.
_INTRODUCTION = """# Operations: compiled for chips that are not here

What the compilers of the chips say; nothing has run. `least` is what must be
read and written: inputs, results and in training their gradients. `moved` is
what XLA counts for its program (a kernel states it itself; XLA for GPUs does
not count). `temporary` is the memory it needs besides inputs and outputs.
`Mcycles` is how long XLA for TPUs believes that its own program takes, in
millions of cycles; it does not know of kernels. All of one chip.

Made by `sana-jax bench kernels --compile-for TOPOLOGY --out docs/bench`; each
table's command is above it.
"""


@dataclasses.dataclass(frozen=True)
class Record:
  """One backend's program for a case; bytes are of one chip.

  Attributes:
    moved: bytes that are read and written; None where XLA does not count.
    cycles: by XLA's estimate; None where it has none, or there are kernels.
    problem: why there is none.
  """

  op: str
  shape: Sequence[int]
  dtype: str
  where: str
  training: bool
  backend: str
  moved: int | None = None
  temporary: int = 0
  cycles: int | None = None
  kernels: int = 0
  collectives: dict[str, int] = dataclasses.field(default_factory=dict)
  seconds: float = 0.
  problem: str = ''

  def __post_init__(self):
    object.__setattr__(self, 'shape', tuple(self.shape))  # JSON has lists.


@dataclasses.dataclass(frozen=True)
class Run:
  """Records, and what they were compiled by."""

  topology: str
  devices: int
  records: list[Record]
  date: str
  versions: dict[str, str]
  command: str


def compile_case(
  case: Case, training: bool, backend: str, mesh: Mesh, platform: str
) -> Record:
  """One backend's program; with the reason, where there is none."""
  blank = dict(op=case.op, shape=case.shape, dtype=case.dtype, where=case.where,
               training=training, backend=backend)
  *inputs, dout = _like(case, mesh)
  formats = tuple(x.format for x in (dout, *inputs))
  start = time.perf_counter()
  try:
    with jax.set_mesh(mesh), kernels.platform(platform):
      done = program(
        case, training, backend, formats if training else formats[:1]).lower(
          tuple(inputs), dout).compile(
            topologies.OPTIONS.get(platform))
  except UnsupportedError as e:
    return Record(**blank, problem=str(e).splitlines()[0])
  except jax.errors.JaxRuntimeError as e:  # It ends one row, not the run.
    return Record(**blank, problem=f'failed: {str(e).splitlines()[0][:200]}')
  text = done.as_text()
  moved = (done.cost_analysis() or {}).get('bytes accessed')
  return Record(
    **blank, moved=None if moved is None else int(moved),
    temporary=done.memory_analysis().temp_size_in_bytes,
    cycles=_cycles(text), kernels=kernel_calls(text),
    collectives=collectives(text), seconds=time.perf_counter() - start)


def _cycles(text):
  found = re.findall(r'"estimated_cycles":"(\d+)"', text)
  if kernel_calls(text) or not found:
    return None
  return sum(map(int, found))


def _like(case, mesh):
  """Inputs and the result's gradient, row by row in memory, on the mesh."""
  batch = tuple(a for a in ('data', 'fsdp') if mesh.shape.get(a, 1) > 1) or None
  rows = 'sequence' if mesh.shape.get('sequence', 1) > 1 else None
  for shape in case.flat_shapes():
    spec = jax.P(batch, rows) if shape[0] == case.shape[0] else jax.P()
    yield jax.ShapeDtypeStruct(shape, case.dtype, sharding=Format(
      Layout(tuple(range(len(shape)))), NamedSharding(mesh, spec)))


def rows(run: Run) -> list[tuple[str, ...]]:
  """Cells of the table, a row for each program."""
  return [_HEAD, *(_row(run, r) for r in run.records if not r.problem)]


def _row(run, r):
  case = Case(r.op, tuple(r.shape), r.dtype)
  mib = lambda size: '' if size is None else f'{size / _MIB:,.1f}'
  return (
    r.op, f'{r.dtype} ' + 'x'.join(map(str, r.shape)),
    'training' if r.training else 'forward', r.backend,
    mib(case.bytes(r.training) / run.devices), mib(r.moved), mib(r.temporary),
    '' if r.cycles is None else f'{r.cycles / 1e6:.2f}',
    str(r.kernels), ', '.join(f'{n} {k}' for k, n in r.collectives.items()))


def problems(run: Run) -> list[str]:
  """A sentence for each reason why there is no program."""
  found = {}
  for r in run.records:
    if r.problem:
      found.setdefault((r.op, r.backend, r.problem), []).append(r)
  return [f'{op} by {backend} cannot be compiled: {why} ({len(all_)} rows).'
          for (op, backend, why), all_ in found.items()]


def failed(run: Run) -> bool:
  """Whether a compiler refused a program that a backend had accepted."""
  return any(r.problem.startswith('failed') for r in run.records)


def table(run: Run) -> str:
  """Plain text."""
  return '\n'.join([f'Compiled for {run.topology}:',
                    *tables.plain(rows(run), _LEFT), *problems(run)])


def markdown(runs: Sequence[Run]) -> str:
  """The page: a table for each run."""
  lines = [_INTRODUCTION]
  for run in runs:
    lines += [
      f'## {run.topology}, {run.date}', '', f'`{run.command}`', '',
      f'*Compiled* with {tables.listed(run.versions)}.', '',
      *tables.markdown(rows(run), _LEFT), '', *problems(run), '']
  return '\n'.join(lines)


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  return tables.from_json(text, Run, records=Record)
