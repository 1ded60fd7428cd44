"""Reports of `sana-jax bench step`: measured, compiled and planned steps."""

from collections.abc import Sequence
import re

from sana_jax.analysis import profile_breakdown
from sana_jax.printable import counted
from sana_jax.tools.bench.step import Record
from sana_jax.tools.report import Bars, columns, joined, Report, Rows, Run

TARGET = 0.5  # MFU.
_GIB = 2**30


def _record(times=(), **facts):
  """Record from JSON, whose times are dicts."""
  times = [profile_breakdown.Time(**time) for time in times]
  return Record(**facts, times=times)


def fastest(run: Run) -> list[Record]:
  """Fastest record of each config and batch size."""
  best = {}
  for r in run.records:
    key = _subject(r)
    if r.seconds and (key not in best or r.best < best[key].best):
      best[key] = r
  return list(best.values())


def findings(run: Run) -> list[str]:
  """Lines of each profiled config: MFU against the target, largest losses."""
  lines = []
  for r in fastest(run):
    if not (r.times or r.unprofiled):
      continue
    share = r.mfu(r.published or r.ceilings['flops'])
    verdict = 'met' if share >= TARGET else 'not met'
    why = (
      'it loses most to' if r.times else f'its profile failed: {r.unprofiled}'
    )
    lines.append(
      f'{_subject(r)}: remat {r.remat} by {r.by} is the fastest, MFU '
      f'{share:.1%} (the target of {TARGET:.0%} is {verdict}); {why}'
    )
    largest = profile_breakdown.largest(r.times)
    lines += [*(f'{i}. {loss}' for i, loss in enumerate(largest, 1)), '']
  return lines[:-1]


def _subject(r):
  """Config name without its remat policy, which a sweep varies."""
  return re.sub(r'\+model\.remat=[^+]*', '', r.config)


def _of(number, form):
  return '' if number is None else format(number, form)


def _gib(size):
  return f'{size / _GIB:.2f}' if size else ''


def _measured(run: Run) -> Rows:
  first = {r.config: r for r in reversed(run.records)}
  ratio = lambda r: (
    '' if r is first[r.config] else f'{first[r.config].best / r.best:.2f}'
  )
  ran = lambda cell: lambda r: cell(r) if r.seconds else ''
  return columns(
    run.records,
    {
      'config': lambda r: r.config,
      'by': lambda r: r.by,
      'remat': lambda r: r.remat,
      'images': lambda r: str(r.images),
      'seconds': ran(lambda r: f'{r.best:.3g}'),
      'images/s': ran(lambda r: f'{r.images / r.best:.3g}'),
      'predicted s': ran(lambda r: _of(r.predicted.get('total'), '.3g')),
      'MFU, published': ran(
        lambda r: f'{r.mfu(r.published):.1%}' if r.published else ''
      ),
      'MFU, measured': ran(lambda r: f'{r.mfu(r.ceilings["flops"]):.1%}'),
      'GiB': lambda r: _gib(r.used_bytes),
      'ratio': ran(ratio),
      'failed': lambda r: r.failed,
    },
  )


def _compiled(run: Run) -> Rows:
  counted = lambda found: (
    ', '.join(f'{n} {name}' for name, n in sorted(found.items())) or 'none'
  )
  return columns(
    run.records,
    {
      'config': lambda r: r.config,
      'by': lambda r: r.by,
      'mesh': _mesh,
      'state GiB': lambda r: _gib(r.state_bytes),
      'temporary GiB': lambda r: _gib(r.temporary_bytes),
      'kernels': lambda r: counted(r.kernels),
      'collectives': lambda r: counted(r.collectives),
    },
  )


def _planned(run: Run) -> Rows:
  error = lambda predicted, found, form: f'{predicted / found - 1:{form}}'
  pages = lambda r: (
    f'{r.temporary_bytes / r.ceilings["page_rate"]:.3g}'
    if 'page_rate' in r.ceilings
    else ''
  )
  ran = lambda cell: lambda r: cell(r) if r.seconds else ''
  used = lambda cell: lambda r: cell(r) if r.used_bytes else ''
  return columns(
    run.records,
    {
      'config': lambda r: r.config,
      'type': lambda r: r.dtype,
      'images': lambda r: str(r.images),
      'predicted s': ran(lambda r: f'{r.predicted["total"]:.3g}'),
      'compute': ran(lambda r: f'{r.predicted["compute"]:.3g}'),
      'memory': ran(lambda r: f'{r.predicted["memory"]:.3g}'),
      'measured s': lambda r: r.failed or f'{r.best:.3g}',
      'median': ran(lambda r: f'{r.median:.3g}'),
      'error': ran(lambda r: error(r.predicted['total'], r.best, '+.0%')),
      'predicted GiB': ran(lambda r: f'{r.needed_bytes / _GIB:.3f}'),
      'measured GiB': used(lambda r: f'{r.used_bytes / _GIB:.3f}'),
      'error of GiB': used(
        lambda r: error(r.needed_bytes, r.used_bytes, '+.1%')
      ),
      'GFLOP': ran(lambda r: f'{r.flops / 1e9:,.1f}'),
      'moves GB': ran(lambda r: f'{r.moved / 1e9:,.2f}'),
      'product TFLOP/s': ran(lambda r: f'{r.ceilings["flops"] / 1e12:.3g}'),
      'copy GB/s': ran(lambda r: f'{r.ceilings["memory_rate"] / 1e9:.3g}'),
      'pages s': ran(pages),
    },
  )


def _mesh(r):
  return ', '.join(f'{axis} {n}' for axis, n in r.mesh.items() if n > 1)


def _title(run):
  mesh = next(filter(None, map(_mesh, run.records)), '')
  return ', '.join(filter(None, [run.device, mesh]))


def _devices(runs):
  return joined(list(dict.fromkeys(run.device for run in runs)))


def _name(r):
  """Config with the batch and without what all of a page share."""
  return r.config.replace('+ema_decay=0.999', '')


def _measured_result(runs: Sequence[Run]) -> str:
  parts = [
    f'{r.images / r.best:.3g} images/s for {_subject(r)} (remat {r.remat}, '
    f'by {r.by})'
    for run in runs
    for r in fastest(run)
  ]
  if not parts:
    return f'No train step has run on {_devices(runs)}.'
  return f'Measured on {_devices(runs)}, train steps reach {joined(parts)}.'


def _measured_bars(runs: Sequence[Run]) -> Bars:
  groups = {}
  for r in (r for run in runs for r in run.records if r.seconds):
    group = groups.setdefault(f'{_subject(r)}, remat {r.remat}', {})
    group[r.by] = r.images / r.best
  axis = 'images a second, more is better'
  return Bars(f'Measured on {_devices(runs)}', axis, groups)


def _temporaries(runs):
  """GiB of temporaries by subject, and in it by backend."""
  groups = {}
  for run in runs:
    for r in run.records:
      by = 'plain XLA' if r.by == 'sana_jax' else 'kernels'
      name = f'{_name(r)}, {_title(run)}'
      groups.setdefault(name, {})[by] = r.temporary_bytes / _GIB
  return groups


def _compiled_result(runs: Sequence[Run]) -> str:
  found = _temporaries(runs)
  parts = [
    f'{x["kernels"]:.2f} GiB of temporaries with kernels and '
    f'{x["plain XLA"]:.2f} without ({name})'
    for name, x in found.items()
    if len(x) == 2
  ]
  if not parts:
    return f'{counted(len(found), "train step")}, compiled and not run.'
  return f'Compiled, not run, a train step needs {"; ".join(parts)}.'


def _compiled_bars(runs: Sequence[Run]) -> Bars:
  axis = 'GiB of temporaries a chip, less is better'
  return Bars('Compiled, not run', axis, _temporaries(runs), form='.2f')


def _planned_result(runs: Sequence[Run]) -> str:
  ran = [r for run in runs for r in run.records if r.seconds]
  times = [r.predicted['total'] / r.best - 1 for r in ran]
  sizes = [r.needed_bytes / r.used_bytes - 1 for r in ran if r.used_bytes]
  span = lambda errors: f'{min(errors):+.0%} to {max(errors):+.0%}'
  memory = f', and its GiB {span(sizes)}' if sizes else ''
  return (
    f"A plan's seconds of {counted(len(ran), 'train step')} are "
    f'{span(times)} off those '
    f'measured on {_devices(runs)}{memory}.'
  )


def _planned_bars(runs: Sequence[Run]) -> Bars:
  groups = {
    f'{r.config.replace("+", " +")}': {
      'predicted': r.predicted['total'],
      'measured': r.best,
    }
    for run in runs
    for r in run.records
    if r.seconds
  }
  return Bars(f'A step on {_devices(runs)}', 'seconds', groups)


MEASURED = Report(
  'step.md',
  'step-*.json',
  _record,
  _measured,
  3,
  _title,
  findings,
  result=_measured_result,
  bars=_measured_bars,
)

COMPILED = Report(
  'step_compiled.md',
  'compiled-step-*.json',
  _record,
  _compiled,
  3,
  how=lambda run: 'Compiled',
  result=_compiled_result,
  bars=_compiled_bars,
)

PLANNED = Report(
  'plan.md',
  'plan-*.json',
  _record,
  _planned,
  2,
  _title,
  result=_planned_result,
  bars=_planned_bars,
)
