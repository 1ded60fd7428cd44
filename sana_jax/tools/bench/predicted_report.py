"""Predictions beside measurements: as a table, a page of the docs, and JSON."""

from collections.abc import Sequence
import dataclasses

from sana_jax.tools import tables
from sana_jax.tools.bench.predicted import Record

_GIB = 2**30
_INTRODUCTION = """# Plans: predicted and measured

The train step that `sana-jax plan` compiles, here for one device that is there:
read as a plan reads it, then run on random data, each config in a process of
its own. `predicted s` is the plan's: each operation of the program by its
roofline, at ceilings that were measured in the same process afterwards (a
large product in the config's type, a large copy in place); `compute` and
`memory` are its seconds of operations that are bound by products, and by
memory. `measured s` is the best step of several after two; `median` is beside
it. `predicted GiB` is XLA's memory analysis (arguments, temporaries, results,
code), as `plan` sums it. `measured GiB` is what the device had in use at most;
on a CPU, what the process had more than before it made the arguments. An error
is predicted / measured - 1.

A roofline is the least that a step takes, so that errors of time are below 0.
It leaves out that small and narrow products do not reach the rate of a large
one, that other operations compute as well as move (exponentials, sums, changes
of layout), and the start of each operation. On a CPU most of all it leaves out
pages: XLA allocates the temporaries anew in each step, and the system zeroes
and maps them; `pages s` is what that takes at the rate measured here, and is
not in the prediction. The other way round, it counts the main memory for every
array, though a cache may hold the smaller ones. XLA's memory analysis leaves
out what libraries take meanwhile: on a CPU, a product of two turned matrices
needs a copy of its result.

Made by `sana-jax bench plan --out docs/bench`; each table's command is above
it.
"""


@dataclasses.dataclass(frozen=True)
class Run:
  """Records of several configs, and what they were measured with."""

  records: list[Record]
  device: str
  date: str
  versions: dict[str, str]
  command: str
  note: str = ''


def rows(run: Run) -> list[tuple[str, ...]]:
  """Cells of the table."""
  return [('config', 'type', 'images', 'predicted s', 'compute', 'memory',
           'measured s', 'median', 'error', 'predicted GiB', 'measured GiB',
           'error'), *(_row(r) for r in run.records)]


def _row(r):
  start = r.config, r.dtype, str(r.batch)
  if r.failed:
    return (*start, *[''] * 3, r.failed, *[''] * 5)
  used = ('', '') if r.used is None else (
    f'{r.used / _GIB:.3f}', f'{r.needed / r.used - 1:+.1%}')
  return (*start, f'{r.predicted:.3g}', f'{r.compute:.3g}', f'{r.memory:.3g}',
          f'{r.best:.3g}', f'{r.median:.3g}',
          f'{r.predicted / r.best - 1:+.0%}', f'{r.needed / _GIB:.3f}', *used)


def ceiling_rows(run: Run) -> list[tuple[str, ...]]:
  """What the programs do, the ceilings, and what new memory takes."""
  return [('config', 'GFLOP', 'moves GB', 'product TFLOP/s', 'copy GB/s',
           'temporaries GiB', 'pages s'), *(
    (r.config, f'{r.flops / 1e9:,.1f}', f'{r.moved / 1e9:,.2f}',
     f'{r.matmul_flops / 1e12:.3g}', f'{r.memory_rate / 1e9:.3g}',
     f'{r.temporaries / _GIB:.3f}',
     f'{r.temporaries / r.page_rate:.3g}' if r.page_rate else '')
    for r in run.records if not r.failed)]


def table(run: Run) -> str:
  """Plain text."""
  return '\n'.join([run.device, *tables.plain(rows(run), 2), '',
                    *tables.plain(ceiling_rows(run), 1)])


def markdown(runs: Sequence[Run]) -> str:
  """The page: two tables for each run."""
  lines = [_INTRODUCTION]
  for run in runs:
    lines += [
      *tables.opening(run, run.device),
      *tables.markdown(rows(run), 2), '',
      'What the programs do, and the measured ceilings that their times are '
      'predicted by:', '', *tables.markdown(ceiling_rows(run), 1), '']
  return '\n'.join(lines)


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  return tables.from_json(text, Run, records=Record)
