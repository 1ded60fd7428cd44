"""Table of the chip benchmark."""

from collections.abc import Iterator, Sequence
from typing import Any

from sana_jax.analysis import chips
from sana_jax.printable import counted
from sana_jax.tools.bench.chip import runner
from sana_jax.tools.bench.chip.runner import Result
from sana_jax.tools.bench.chip.stages import RATES, TILES
from sana_jax.tools.report import Bars, joined, Report, Rows, Run

_HEAD = ('stage', 'what', 'ms', 'rate', 'share', 'more')


def rows(run: Run) -> Rows:
  """Cells of the table."""
  kinds = {RATES.name: _rate, TILES: _tiles, 'step': _step, 'request': _request}
  body = []
  for stage, found in runner.rows(run).items():
    make = next(
      (f for key, f in kinds.items() if stage.startswith(key)), _operation
    )
    for name, row in _lines(stage, found):
      cells = (
        ('', '', '', row['problem'])
        if 'problem' in row
        else (make(run, stage, name, row))
      )
      body.append((stage, name, *(c.replace('|', ' ') for c in cells)))
  return [_HEAD, *body]


def _lines(stage, found) -> Iterator[tuple[str, dict[str, Any]]]:
  """Rows of a stage: a step's merged, a request's with their sum."""
  if stage.startswith('step'):
    yield 'step', {k: v for row in found.values() for k, v in row.items()}
    return
  yield from found.items()
  if stage.startswith('request') and len(found) == 3:
    yield (
      'whole',
      {
        **found['denoise'],
        **{
          key: sum(row[key] for row in found.values())
          for key in ('seconds', 'flops')
        },
      },
    )


def _ceiling(run, name):
  return runner.rows(run).get(RATES.name, {}).get(name, {}).get('rate')


def _share(value, ceiling):
  return f'{value / ceiling:.0%}' if ceiling else ''


def _ms(seconds):
  return f'{seconds * 1e3:.4g}'


def _rate(run, stage, name, row):
  chip = chips.of_kind(run.device)
  sheet = chip and (
    chip.of_device().memory_rate if name == 'copy' else chip.of_device().flops
  )
  scale = 1e9 if row['unit'] == 'GB/s' else 1e12
  return (
    '',
    f'{row["rate"] / scale:.4g} {row["unit"]}',
    _share(row['rate'], sheet),
    '',
  )


def _operation(run, stage, name, row):
  plain = runner.rows(run)[stage].get(name.rpartition(', ')[0] + ', xla', {})
  rate = row['bytes'] / row['seconds']
  by_xla = row['seconds'] / plain['seconds'] if 'seconds' in plain else None
  return (
    _ms(row['seconds']),
    f'{rate / 1e9:.4g} GB/s',
    _share(rate, _ceiling(run, 'copy')),
    ', '.join(
      filter(
        None,
        [
          f'by XLA {by_xla:.2f}' if by_xla and row is not plain else '',
          f'error {row["error"]:.0e}',
          'x'.join(map(str, row['shape'])),
        ],
      )
    ),
  )


def _tiles(run, stage, name, row):
  values = ', '.join(f'{k} {v}' for k, v in row['values'].items())
  return (
    _ms(row['seconds']),
    '',
    '',
    (
      f'{values or "its own choice"}; {_ms(row["usual_seconds"])} by its own '
      f'choice, {row["tried"]} tried'
    ),
  )


def _step(run, stage, name, row):
  more = [
    f'{counted(row["batch"], "image")} of {row["size"]} px, '
    f'remat {row["remat"]}',
    f'predicted {_ms(row["predicted_seconds"])} ms',
    f'{row["needed_bytes"] / 2**30:.1f} GiB',
    f'{row["kernel_calls"]} kernel calls',
  ]
  more += [
    f'{key.removesuffix(" share")} {row[key]:.0%}'
    for key in ('elementwise share', 'copies share', 'idle share')
    if key in row
  ]
  if 'launches' in row:
    more.append(f'{row["launches"]:.0f} launches')
  if 'seconds' not in row:
    return '', '', '', ', '.join(more)
  rate = row['flops'] / row['seconds']
  chip = chips.of_kind(run.device)
  sheet = f' ({_share(rate, chip.of_device().flops)})' if chip else ''
  return (
    _ms(row['seconds']),
    f'{row["images_per_second"]:.4g} images/s',
    _share(rate, _ceiling(run, 'bf16')) + sheet,
    ', '.join(more),
  )


def _request(run, stage, name, row):
  rate = row['flops'] / row['seconds']
  reference = runner.rows(run).get(stage.replace('sana_jax', 'diffusers'), {})
  reference = dict(_lines(stage, reference)).get(name, {}).get('seconds')
  return (
    _ms(row['seconds']),
    f'{row["batch"] / row["seconds"]:.4g} images/s',
    _share(rate, _ceiling(run, 'bf16')) if row['flops'] else '',
    f'{row["seconds"] / reference:.2f} of the time of diffusers'
    if reference and row['flops']
    else '',
  )


def left(run: Run) -> list[str]:
  """A line for each stage that was not fully measured."""
  lines = [
    f'- {r.name}: {r.status}' + (f' ({r.reason})' if r.reason else '')
    for r in run.records
    if r.status != 'measured'
  ]
  missing = dict.fromkeys(
    name
    for r in run.records
    if r.status == 'missing'
    for name in r.reason.split(', ')
  )
  return lines + (
    [f'- Packages to install: {", ".join(missing)}.'] if missing else []
  )


def _notes(run):
  return ['', *left(run)] if left(run) else []


def _rates(run):
  """Images per second of the steps and the requests."""
  rates = {}
  for stage, name, _, rate, *_ in rows(run)[1:]:
    if name in ('step', 'whole') and rate:
      rates[stage] = float(rate.removesuffix(' images/s'))
  return rates


def result(runs: Sequence[Run]) -> str:
  """Sentence with the measured stages, and the speed of steps and requests."""
  parts = []
  for run in runs:
    ran = sum(r.status == 'measured' for r in run.records)
    text = f'{ran} of {len(run.records)} stages are measured on {run.device}'
    speeds = [f'{x:.4g} images/s ({name})' for name, x in _rates(run).items()]
    parts.append(f'{text}: {joined(speeds)}' if speeds else text)
  return f'{"; ".join(parts)}.'


def bars(runs: Sequence[Run]) -> Bars:
  """Images per second of the steps and the requests."""
  groups = {
    stage: {run.device: rate}
    for run in runs
    for stage, rate in _rates(run).items()
  }
  return Bars('Measured', 'images a second, more is better', groups)


CHIP = Report(
  'chip.md',
  'chip.json',
  Result,
  rows,
  6,
  notes=_notes,
  result=result,
  bars=bars,
)
