"""Records of the train step: as a table, a page of the docs, and JSON."""

from collections.abc import Sequence
import dataclasses
import math

from sana_jax.tools import tables
from sana_jax.tools.bench.training import Request

_GIB = 2**30
_INTRODUCTION = """# Training: the step

*Measured* rows have run: seconds of a step, the best of several rounds in which
all sides take turns from the same state. `MFU` is three times the forward
pass's products and convolutions in that time (what remat computes again does
not count), by a large product on the same device in the same run. `ratio` is
our time by the other side's: below 1, we are faster. *Compiled* rows have not
run: what the compiler of the chip says of one chip's memory, and how often the
program calls kernels (in the loop over blocks once for all of them).

Made by `sana-jax bench train --out docs/bench`; each table's command is above
it.
"""


@dataclasses.dataclass(frozen=True)
class Record:
  """The step of one side, measured or compiled.

  Attributes:
    backends_of: of ops that are not the fastest that can run.
    seconds: of a step, in each round; empty where it was only compiled.
    state_bytes: of one chip: weights, average, moments and its batch.
    temporary_bytes: of one chip.
  """

  side: str
  backends_of: dict[str, str]
  seconds: list[float]
  state_bytes: int = 0
  temporary_bytes: int = 0
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)
  collectives: dict[str, int] = dataclasses.field(default_factory=dict)

  @property
  def best(self) -> float:
    """Noise only ever adds to a time."""
    return min(self.seconds, default=math.nan)


@dataclasses.dataclass(frozen=True)
class Run:
  """Records of one request, and what they were made with."""

  request: Request
  mesh: dict[str, int]
  records: list[Record]
  date: str
  device: str  # Or topology.
  versions: dict[str, str]
  command: str
  forward_flops: int
  matmul_flops: float | None = None


def rows(run: Run) -> list[tuple[str, ...]]:
  """Cells of the table."""
  ours = run.records[0]
  if ours.seconds:
    return [('by', 'seconds', 'images/s', 'TFLOP/s', 'MFU', 'ratio'), *(
      _measured(run, r, ours) for r in run.records)]
  return [('by', 'state GiB', 'temporary GiB', 'kernels', 'collectives'), *(
    _compiled(r) for r in run.records)]


def _measured(run, r, ours):
  rate = 3 * run.forward_flops / r.best
  peak = run.matmul_flops * math.prod(run.mesh.values())
  return (r.side, f'{r.best:.3g}', f'{run.request.batch / r.best:.3g}',
          f'{rate / 1e12:.3g}', f'{rate / peak:.0%}',
          '' if r is ours else f'{ours.best / r.best:.2f}')


def _compiled(r):
  counted = lambda found: ', '.join(
    f'{n} {name}' for name, n in sorted(found.items())) or 'none'
  return (r.side, f'{r.state_bytes / _GIB:.2f}',
          f'{r.temporary_bytes / _GIB:.2f}', counted(r.kernels),
          counted(r.collectives))


def title(run: Run) -> str:
  """What was asked for, in a line."""
  r = run.request
  mesh = ', '.join(f'{axis} {n}' for axis, n in run.mesh.items())
  chosen = ', '.join(f'{op} by {name}' for op, name in sorted(
    run.records[0].backends_of.items()))
  return ', '.join([
    f'{r.model}, {r.size} px, {r.batch} images, {r.dtype}, {r.optimizer}',
    *how(r), mesh, *([chosen] if chosen else []),
    run.device])


def how(request: Request) -> list[str]:
  """The means to save memory, in a word each."""
  remat = {'none': [], 'full': ['remat']}.get(
    request.remat, [f'remat {request.remat}'])
  return remat + ([f'{request.accumulate} parts'] if request.accumulate > 1
                  else [])


def table(run: Run) -> str:
  """Plain text."""
  return '\n'.join([title(run), *tables.plain(rows(run), 1)])


def markdown(runs: Sequence[Run]) -> str:
  """The page: a table for each run."""
  lines = [_INTRODUCTION]
  for run in runs:
    how = '*Measured*' if run.records[0].seconds else '*Compiled*'
    lines += [
      *tables.opening(run, title(run), how),
      *tables.markdown(rows(run), 1), '']
  return '\n'.join(lines)


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  return tables.from_json(text, Run, records=Record, request=Request)
