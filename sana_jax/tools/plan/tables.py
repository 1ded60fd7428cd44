"""Tables of plans for the terminal, Markdown and HTML."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sana_jax.analysis import chips
from sana_jax.analysis.chips import Chip, GIB
from sana_jax.tools import report as reports
from sana_jax.tools.plan.report import Plan, predict, ranked

_START = ('layout', 'mesh', 'images/chip', 'GiB', 'of', 'step s', 'bound by')
HEAD = (*_START, 'img/s/chip', 'img/s', 'MFU', 'days', 'chip-hours')
WINNERS = ('config', 'pod', *_START, 'img/s', 'MFU', 'days')


def mesh_text(mesh: Mapping[str, int]) -> str:
  """Text such as 'data=4 fsdp=64', without axes of one device."""
  sizes = {axis: 'all' if n == -1 else n for axis, n in mesh.items() if n != 1}
  return ' '.join(f'{axis}={n}' for axis, n in sizes.items()) or 'one device'


def rows(plans: Sequence[Plan], chip: Chip | None = None) -> reports.Rows:
  """Rows with columns HEAD, the best plan first."""
  found = [cells(plan, chip) for plan in ranked(plans, chip)]
  return [HEAD, *(tuple(x.get(key, '') for key in HEAD) for x in found)]


def cells(plan: Plan, chip: Chip | None) -> dict[str, str]:
  """Cells of a plan by column, if it has a value."""
  found = {
    'layout': plan.layout,
    'mesh': mesh_text(plan.mesh),
    'images/chip': f'{plan.per_chip:g}',
  }
  if plan.problem:
    return found | {'step s': 'invalid'}
  found['GiB'], found['of'] = _gib(plan.needed), _gib(plan.usable)
  if not plan.fits:
    return found | {
      'step s': f'{_gib(plan.needed - plan.usable)} GiB too large'
    }
  p = predict(plan, chip)
  found |= {
    'step s': f'{p.total:.3g}',
    'bound by': p.bound,
    'img/s/chip': f'{p.per_chip:.3g}',
    'img/s': f'{p.images_per_second:,.0f}',
    'MFU': f'{p.mfu:.0%}',
  }
  if plan.mode == 'sample':
    return found
  return found | {'days': f'{p.days:.2f}', 'chip-hours': f'{p.chip_hours:,.0f}'}


def _gib(size):
  return f'{size / GIB:.2f}'


def notes(plans: Sequence[Plan]) -> list[str]:
  """A line for each plan that is invalid, does not fit, or has warnings."""
  found = [f'{p.layout}: {p.problem}' for p in plans if p.problem]
  for plan in plans:
    if plan.recomputed and plan.fits:
      found.append(
        f'{plan.layout}: the compiler computes {plan.recomputed} '
        'operations again to save memory.'
      )
    found += [f'{plan.layout}: {line}' for line in plan.warnings]
  return found


def result(plans: Sequence[Plan], chip: Chip | None = None) -> str:
  """Sentence with the number of layouts that fit, and the fastest one."""
  best = ranked(plans, chip)[0]
  several = f'of {len(plans)} layouts' if len(plans) > 1 else 'of one layout'
  if not best.fits:
    return f'None {several} fits on {best.topology}.'
  p = predict(best, chip)
  count = sum(plan.fits for plan in plans)
  return (
    f'{count} {several} fit{"s" * (count == 1)} on {best.topology}; the '
    f'fastest is {best.layout} ({mesh_text(best.mesh)}), predicted at '
    f'{p.images_per_second:,.0f} images/s and {p.mfu:.0%} MFU with '
    f'{_gib(best.needed)} of {_gib(best.usable)} GiB a device.'
  )


def short_of(plan: Plan, remedies: Sequence[tuple[str, Plan]]) -> str:
  """Excess of a plan that does not fit, its largest parts, and remedies."""
  name, size = max(plan.memory.items(), key=lambda item: item[1])
  text = (
    f'{plan.layout} needs {_gib(plan.needed)} GiB of {_gib(plan.usable)}: '
    f'{_gib(plan.needed - plan.usable)} GiB too many; largest are the {name}, '
    f'{_gib(size)} GiB'
  )
  if plan.temporaries:
    t = plan.temporaries[0]
    text += f' (of these {t.shape}, {_gib(t.bytes)} GiB, {t.source})'
  if not remedies:
    return f'{text}; no change tried makes it fit.'
  fits = [f'{change} ({_gib(after.needed)} GiB)' for change, after in remedies]
  return f'{text}; what fits: {"; ".join(fits)}.'


def plain(plans: Sequence[Plan], chip: Chip | None = None) -> str:
  """Table for the terminal."""
  return '\n'.join(reports.plain(rows(plans, chip), 2))


def memory_rows(plans: Sequence[Plan]) -> reports.Rows:
  """Rows of GiB by kind."""
  kinds = dict.fromkeys(k for p in plans for k in p.memory)
  of = lambda kind: lambda p: f'{p.memory.get(kind, 0) / GIB:.3f}'
  return reports.columns(
    [p for p in plans if p.memory],
    {
      'layout': lambda p: p.layout,
      **{kind: of(kind) for kind in kinds},
      'sum': lambda p: _gib(p.needed),
    },
  )


def collective_rows(plan: Plan, chip: Chip | None = None) -> reports.Rows:
  """Rows of the collectives of a step."""
  device = (chip or plan.pod.chip).of_device()
  return reports.columns(
    sorted(plan.collectives, key=lambda c: -c.seconds(device)),
    {
      'kind': lambda c: c.kind,
      'axes': lambda c: c.axes,
      'link': lambda c: c.link,
      'calls': lambda c: str(c.count),
      'MB': lambda c: f'{c.bytes / 1e6:.1f}',
      'ms': lambda c: f'{1e3 * c.seconds(device):.2f}',
      'beside other work': lambda c: 'yes' if c.hidden else 'no',
    },
  )


def flop_rows(plans: Sequence[Plan], chip: Chip | None = None) -> reports.Rows:
  """Rows of FLOPs and seconds of a step."""
  of = lambda cell: lambda plan: f'{cell(predict(plan, chip)):.3g}'
  moved = lambda plan: sum(w.bytes for w in plan.work)
  return reports.columns(
    [p for p in plans if p.fits],
    {
      'layout': lambda plan: plan.layout,
      'model TFLOP': lambda plan: f'{plan.model_flops / 1e12:,.0f}',
      'hardware TFLOP': lambda plan: f'{plan.hardware_flops / 1e12:,.0f}',
      'HBM GB a device': lambda plan: f'{moved(plan) / 1e9:,.1f}',
      'compute s': of(lambda p: p.compute),
      'memory s': of(lambda p: p.memory),
      'hidden s': of(lambda p: p.hidden),
      'exposed s': of(lambda p: p.exposed),
    },
  )


def temporary_rows(plan: Plan) -> reports.Rows:
  """Rows of the largest temporaries."""
  return reports.columns(
    plan.temporaries,
    {
      'array': lambda t: t.shape,
      'made by': lambda t: f'`{t.source}`',
      'MiB': lambda t: f'{t.bytes / 2**20:,.1f}',
    },
  )


class Table(NamedTuple):
  """Rows, of which the first `left` columns are left-aligned."""

  rows: reports.Rows
  left: int
  note: str = ''


def sections(
  plans: Sequence[Plan], chip: Chip | None = None
) -> Iterator[tuple[str, list[Table]]]:
  """(title, tables): two of all plans, then one per plan that fits."""
  yield 'Memory, GiB of a device', [Table(memory_rows(plans), 1)]
  yield 'Seconds', [Table(flop_rows(plans, chip), 1)]
  sent, largest = 'What a device sends in a step:', 'The largest temporaries:'
  for plan in plans:
    if plan.fits:
      moved = Table(collective_rows(plan, chip), 3, sent)
      arrays = Table(temporary_rows(plan), 2, largest)
      yield f'{plan.layout}: {mesh_text(plan.mesh)}', [moved, arrays]


def markdown(
  title: str,
  plans: Sequence[Plan],
  notes: Sequence[str],
  command: str,
  chip: Chip | None = None,
  pictures: Sequence[str] = (),
) -> str:
  """Markdown page: the ranking, then details of the plans that fit.

  `pictures` are names of files next to the page.
  """
  plans = ranked(plans, chip)
  pod = plans[0].pod
  versions = next((p.versions for p in plans if p.versions), {})
  several = f' is {pod.chip.devices}' if pod.chip.devices > 1 else ''
  head = reports.fixed('pod.md').format(
    title=title,
    command=command,
    ceilings=ceilings(chip or pod.chip),
    versions=reports.listed(versions),
    devices=f'a chip{several}',
  )
  lines = [reports.opened(head, result(plans, chip), *pictures)]
  lines += [*reports.markdown(rows(plans, chip), 2), '']
  lines += [f'- {note}' for note in notes] + [''] * bool(notes)
  for heading, parts in sections(plans, chip):
    lines += [f'## {heading}', '']
    for table in parts:
      lines += [table.note, ''] if table.note else []
      lines += [*reports.markdown(table.rows, table.left), '']
  return '\n'.join(lines)


def ceilings(chip: Chip) -> str:
  """Text of the rates that predictions use."""
  known = chip == chips.CHIPS[chip.name]
  return (
    f'{"the data sheet" if known else "rates measured on one"} of the '
    f'{chip.name} '
    f'({chip.flops / 1e12:g} TFLOP/s, {chip.memory_rate / 1e9:g} GB/s, '
    f'links {chip.link_rate / 1e9:g} GB/s, network '
    f'{chip.network_rate / 1e9:g} GB/s a chip)'
  )
