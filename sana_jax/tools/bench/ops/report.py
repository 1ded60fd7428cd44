"""Reports of `sana-jax bench kernels`: measured, or compiled."""

from collections import Counter

from sana_jax.tools.bench.ops import compiled, measure
from sana_jax.tools.report import columns, Report, Rows, Run

_MIB = 2**20


def _shape(r):
  """Shape and dtype."""
  return f'{r.dtype} ' + 'x'.join(map(str, r.shape))


# First columns of both tables.
_CALL = {
  'op': lambda r: r.op,
  'shape': _shape,
  'pass': lambda r: 'training' if r.training else 'forward',
  'by': lambda r: r.backend,
}


def _measured(run: Run) -> Rows:
  key = lambda r: (r.op, r.shape, r.dtype, r.training)
  plain = {key(r): r.best for r in run.records if r.backend == 'xla'}
  copy, product = run.facts['copy_bytes'], run.facts['matmul_flops']
  moved = lambda r: r.bytes(r.training) / r.best
  flops = lambda r: r.flops(r.training) / r.best
  return columns(
    [r for r in run.records if r.seconds],
    {
      **_CALL,
      'ms': lambda r: f'{r.best * 1e3:.3g}',
      'GB/s': lambda r: f'{moved(r) / 1e9:.3g}',
      'of copy': lambda r: f'{moved(r) / copy:.0%}',
      'TFLOP/s': lambda r: f'{flops(r) / 1e12:.3g}',
      'of matmul': lambda r: f'{flops(r) / product:.0%}',
      'by XLA': lambda r: (
        f'{r.best / plain[key(r)]:.2f}' if plain.get(key(r)) else ''
      ),
      'error': lambda r: '' if r.error is None else f'{r.error:.0e}',
    },
  )


def _compiled(run: Run) -> Rows:
  mib = lambda size: '' if size is None else f'{size / _MIB:,.1f}'
  least = lambda r: r.bytes(r.training)
  return columns(
    [r for r in run.records if not r.problem],
    {
      **_CALL,
      'least MiB': lambda r: mib(least(r) / run.facts['devices']),
      'moved MiB': lambda r: mib(r.moved),
      'temporary MiB': lambda r: mib(r.temporary),
      'Mcycles': lambda r: '' if r.cycles is None else f'{r.cycles / 1e6:.2f}',
      'kernels': lambda r: str(r.kernels),
      'collectives': lambda r: ', '.join(
        f'{n} {kind}' for kind, n in r.collectives.items()
      ),
    },
  )


def _title(run):
  """Title with the device's peak rates."""
  copy, product = run.facts['copy_bytes'], run.facts['matmul_flops']
  return (
    f'{run.device}: a large copy moves {copy / 1e9:.3g} GB/s, a large '
    f'product reaches {product / 1e12:.3g} TFLOP/s'
  )


def problems(run: Run) -> list[str]:
  """A line for each reason why a backend is not in the table."""
  problems = ((r.op, r.backend, r.problem) for r in run.records if r.problem)
  return [
    f'{op} by {backend} {problem} ({count} rows).'
    for (op, backend, problem), count in Counter(problems).items()
  ]


def _notes(run):
  where = dict.fromkeys((_shape(r), r.where) for r in run.records)
  return [*(f'- {s}: {w}' for s, w in where), '', *problems(run)]


def wrong(run: Run) -> bool:
  """Whether any backend was wrong or failed."""
  return any(r.problem.startswith(('wrong', 'failed')) for r in run.records)


MEASURED = Report(
  'kernels.md', 'kernels-*.json', measure.Record, _measured, 4, _title, _notes
)

COMPILED = Report(
  'kernels_compiled.md',
  'compiled-kernels-*.json',
  compiled.Record,
  _compiled,
  4,
  notes=problems,
  how=lambda run: 'Compiled',
)
