"""Reports of `sana-jax bench kernels`: measured, or compiled."""

from collections import Counter
from collections.abc import Sequence
import statistics

from sana_jax.printable import counted
from sana_jax.tools.bench.ops import compiled, measure
from sana_jax.tools.report import Bars, columns, joined, Report, Rows, Run

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
    f'{op} by {backend} {problem} ({counted(count, "row")}).'
    for (op, backend, problem), count in Counter(problems).items()
  ]


def _notes(run):
  where = dict.fromkeys((_shape(r), r.where) for r in run.records)
  return [*(f'- {s}: {w}' for s, w in where), '', *problems(run)]


def wrong(run: Run) -> bool:
  """Whether any backend was wrong or failed."""
  return any(r.problem.startswith(('wrong', 'failed')) for r in run.records)


def _relative(run):
  """Medians over shapes of the time by that of XLA, by operation and pass."""
  key = lambda r: (r.op, r.shape, r.dtype, r.training)
  ran = [r for r in run.records if r.seconds]
  plain = {key(r): r.best for r in ran if r.backend == 'xla'}
  found = {}
  for r in ran:
    if plain.get(key(r)):
      name = f'{r.op}, {_CALL["pass"](r)}'
      sides = found.setdefault(name, {}).setdefault(r.backend, [])
      sides.append(r.best / plain[key(r)])
  return {
    name: {by: statistics.median(x) for by, x in sides.items()}
    for name, sides in found.items()
  }


def _measured_result(runs: Sequence[Run]) -> str:
  parts = []
  for run in runs:
    for name, sides in _relative(run).items():
      by = min(sides, key=sides.get)
      parts.append(f'{sides[by]:.2f} ({name}: {by})')
  devices = joined([run.device for run in runs])
  if not parts:
    return f'No operation was compared with XLA on {devices}.'
  return (
    f'Measured on {devices}, the fastest backend takes this share of plain '
    f"XLA's time, as medians over shapes: {joined(parts)}."
  )


def _measured_bars(runs: Sequence[Run]) -> Bars:
  several = len(runs) > 1
  groups = {
    f'{run.device}: {name}' if several else name: sides
    for run in runs
    for name, sides in _relative(run).items()
  }
  title = f'Measured on {joined([run.device for run in runs])}'
  axis = 'time by that of plain XLA, less is better'
  return Bars(title, axis, groups, form='.2f')


def _temporaries(runs):
  """MiB of temporaries, summed over shapes that both sides compile."""
  groups = {}
  for run in runs:
    key = lambda r: (r.op, r.shape, r.dtype, r.training)
    side = lambda r: 'plain XLA' if r.backend == 'xla' else 'kernel'
    sides = {}
    for r in run.records:
      if not r.problem and r.temporary is not None:
        sides.setdefault(key(r), {})[side(r)] = r.temporary / _MIB
    for (op, _, _, training), sizes in sides.items():
      if len(sizes) == 2 and training:
        group = groups.setdefault(f'{run.device}: {op}', Counter())
        group.update(sizes)
  return groups


def _compiled_result(runs: Sequence[Run]) -> str:
  chips = joined(list(dict.fromkeys(run.device for run in runs)))
  shares = [x['kernel'] / x['plain XLA'] for x in _temporaries(runs).values()]
  if not shares:
    return f'Operations compiled for {chips}, and not run.'
  return (
    f'Compiled for {chips} and not run, kernels need at most '
    f"{max(shares):.1%} of the temporary memory of plain XLA's forward and "
    'backward pass.'
  )


def _compiled_bars(runs: Sequence[Run]) -> Bars:
  title = 'Compiled, not run: temporaries of forward and backward, all shapes'
  return Bars(title, 'MiB a chip', _temporaries(runs), ',.1f')


MEASURED = Report(
  'kernels.md',
  'kernels-*.json',
  measure.Record,
  _measured,
  4,
  _title,
  _notes,
  result=_measured_result,
  bars=_measured_bars,
)

COMPILED = Report(
  'kernels_compiled.md',
  'compiled-kernels-*.json',
  compiled.Record,
  _compiled,
  4,
  notes=problems,
  how=lambda run: 'Compiled',
  result=_compiled_result,
  bars=_compiled_bars,
)
