"""Records of operations: as a table, a page of the docs, and JSON."""

from collections.abc import Sequence
import dataclasses

from sana_jax.tools import tables
from sana_jax.tools.bench.ops.measure import Record

_HEAD = ('op', 'shape', 'pass', 'by', 'ms', 'GB/s', 'of copy', 'TFLOP/s',
         'of matmul', 'by XLA', 'error')
_LEFT = 4  # Columns of text.
_INTRODUCTION = """# Operations: measured speed

Milliseconds of one call, the best of several rounds in which all sides take
turns. `training` is the forward and the backward pass in one program. `GB/s`
counts what must be read and written at least (forward q, k, v and the result,
or x and the result; backward all of these again and their gradients), and `of
copy` compares it with a large copy on the same device in the same run; `of
matmul` compares products and taps with a large product. `by XLA` is the time by
that of plain XLA: below 1 is faster. `error` is relative to float32, of the
result or the worst gradient. Shapes are those that the models named below call
with.

Made by `sana-jax bench kernels --out docs/bench`; each table's command is above
it.
"""


@dataclasses.dataclass(frozen=True)
class Run:
  """Records, and what they were measured with."""

  records: list[Record]
  date: str
  device: str
  copy_bytes: float
  matmul_flops: float
  versions: dict[str, str]
  command: str


def rows(run: Run) -> list[tuple[str, ...]]:
  """Cells of the table: a row for each record that ran."""
  plain = {_key(r): r.best for r in run.records if r.backend == 'xla'}
  return [_HEAD, *(_row(run, r, plain.get(_key(r))) for r in run.records
                   if r.seconds)]


def _key(r):
  return r.op, tuple(r.shape), r.dtype, r.training


def _row(run, r, plain):
  gb = r.case.bytes(r.training) / r.best
  flops = r.case.flops(r.training) / r.best
  return (
    r.op, shape(r), 'training' if r.training else 'forward', r.backend,
    f'{r.best * 1e3:.3g}', f'{gb / 1e9:.3g}', f'{gb / run.copy_bytes:.0%}',
    f'{flops / 1e12:.3g}', f'{flops / run.matmul_flops:.0%}',
    f'{r.best / plain:.2f}' if plain else '',
    '' if r.error is None else f'{r.error:.0e}')


def shape(r: Record) -> str:
  """With its type."""
  return f'{r.dtype} ' + 'x'.join(map(str, r.shape))


def problems(run: Run) -> list[str]:
  """A sentence for each reason why a backend is not in the table."""
  found = {}
  for r in run.records:
    if r.problem:
      found.setdefault((r.op, r.backend, r.problem), []).append(r)
  return [f'{op} by {backend} {problem} ({len(all_)} rows).'
          for (op, backend, problem), all_ in found.items()]


def wrong(run: Run) -> bool:
  """Whether anything ran that is not right, or should have run."""
  return any(r.problem.startswith(('wrong', 'failed')) for r in run.records)


def table(run: Run) -> str:
  """Plain text."""
  return '\n'.join([
    limits(run), *tables.plain(rows(run), _LEFT), *problems(run)])


def limits(run: Run) -> str:
  """What the device does at best."""
  return (f'{run.device}: a large copy moves {run.copy_bytes / 1e9:.3g} GB/s, '
          f'a large product reaches {run.matmul_flops / 1e12:.3g} TFLOP/s.')


def markdown(runs: Sequence[Run]) -> str:
  """The page: a table for each run."""
  lines = [_INTRODUCTION]
  for run in runs:
    where = dict.fromkeys((shape(r), r.where) for r in run.records)
    lines += [
      f'## {run.device}, {run.date}', '', f'`{run.command}`', '',
      f'*Measured* with {tables.listed(run.versions)}. {limits(run)}', '',
      *tables.markdown(rows(run), _LEFT), '',
      *(f'- {s}: {w}' for s, w in where), '',
      *problems(run), '']
  return '\n'.join(lines)


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  return tables.from_json(text, Run, records=Record)
