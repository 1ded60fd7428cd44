"""Plans as tables: for the terminal, a page of Markdown, and HTML."""

from collections.abc import Mapping, Sequence

from sana_jax.analysis import chips
from sana_jax.analysis.chips import Chip, GIB
from sana_jax.tools import report as reports
from sana_jax.tools.plan.report import Plan, predict, ranked

HEAD = (
  'layout',
  'mesh',
  'images/chip',
  'GiB',
  'of',
  'step s',
  'bound by',
  'img/s/chip',
  'img/s',
  'MFU',
  'days',
  'chip-hours',
)
_INTRODUCTION = """# {title}

*Compiled* by {versions}, not run: memory, FLOPs and what chips tell each other
are of the program that XLA made; times are *predicted* by {ceilings}, each
operation by its roofline, and are the best that can be hoped for. GiB are of a
device ({devices}); `of` is what a program may use. Made by

    {command}

"""


def mesh_text(mesh: Mapping[str, int]) -> str:
  """'data=4 fsdp=64'; axes of one device are left out."""
  return (
    ' '.join(
      f'{axis}={"all" if n == -1 else n}' for axis, n in mesh.items() if n != 1
    )
    or 'one device'
  )


def rows(plans: Sequence[Plan], chip: Chip | None = None) -> list[tuple]:
  """Cells, the best plan first."""
  return [HEAD, *(_row(plan, chip) for plan in ranked(plans, chip))]


def _row(plan, chip):
  start = (plan.layout, mesh_text(plan.mesh), f'{plan.per_chip:g}')
  if plan.problem:
    return (*start, '', '', 'cannot be', *[''] * 6)
  memory = (f'{plan.needed / GIB:.2f}', f'{plan.usable / GIB:.2f}')
  if not plan.fits:
    over = (plan.needed - plan.usable) / GIB
    return (*start, *memory, f'{over:.2f} GiB too large', *[''] * 6)
  p = predict(plan, chip)
  run = (
    ('', '')
    if plan.mode == 'sample'
    else (f'{p.days:.2f}', f'{p.chip_hours:,.0f}')
  )
  return (
    *start,
    *memory,
    f'{p.seconds:.3g}',
    p.bound,
    f'{p.per_chip:.3g}',
    f'{p.images_per_second:,.0f}',
    f'{p.mfu:.0%}',
    *run,
  )


def notes(plans: Sequence[Plan]) -> list[str]:
  """A sentence for each that cannot be, does not fit, or has warnings."""
  found = [f'{p.layout}: {p.problem}' for p in plans if p.problem]
  for plan in plans:
    if plan.recomputed and plan.fits:
      found.append(
        f'{plan.layout}: the compiler computes {plan.recomputed} '
        'operations again to save memory.'
      )
    found += [f'{plan.layout}: {line}' for line in plan.warnings]
  return found


def short_of(plan: Plan, remedies: Sequence[tuple[str, Plan]]) -> str:
  """By how much it does not fit, what is largest, and what would help."""
  name, size = max(plan.memory.items(), key=lambda item: item[1])
  said = (
    f'{plan.layout} needs {plan.needed / GIB:.2f} GiB of '
    f'{plan.usable / GIB:.2f}: {(plan.needed - plan.usable) / GIB:.2f} '
    f'GiB too many; largest are the {name}, {size / GIB:.2f} GiB'
  )
  if plan.temporaries:
    t = plan.temporaries[0]
    said += f' (of these {t.shape}, {t.bytes / GIB:.2f} GiB, {t.source})'
  if not remedies:
    return f'{said}; no change that was tried makes it fit.'
  fits = '; '.join(
    f'{change} ({after.needed / GIB:.2f} GiB)' for change, after in remedies
  )
  return f'{said}; what fits: {fits}.'


def plain(plans: Sequence[Plan], chip: Chip | None = None) -> str:
  """For the terminal."""
  return '\n'.join(reports.plain(rows(plans, chip), 2))


def memory_rows(plans: Sequence[Plan]) -> list[tuple]:
  """GiB by what they are for."""
  kinds = list(dict.fromkeys(k for p in plans for k in p.memory))
  return [
    ('layout', *kinds, 'sum'),
    *(
      (
        p.layout,
        *(f'{p.memory.get(k, 0) / GIB:.3f}' for k in kinds),
        f'{p.needed / GIB:.2f}',
      )
      for p in plans
      if p.memory
    ),
  ]


def collective_rows(plan: Plan, chip: Chip | None = None) -> list[tuple]:
  """What a device sends in a step."""
  device = (chip or plan.pod.chip).of_device()
  found = sorted(plan.collectives, key=lambda c: -c.seconds(device))
  return [
    ('kind', 'axes', 'link', 'calls', 'MB', 'ms', 'beside other work'),
    *(
      (
        c.kind,
        c.axes,
        c.link,
        str(c.count),
        f'{c.bytes / 1e6:.1f}',
        f'{1e3 * c.seconds(device):.2f}',
        'yes' if c.hidden else 'no',
      )
      for c in found
    ),
  ]


def flop_rows(plans: Sequence[Plan], chip: Chip | None = None) -> list[tuple]:
  """Where a step's seconds go."""
  head = (
    'layout',
    'model TFLOP',
    'hardware TFLOP',
    'HBM GB a device',
    'compute s',
    'memory s',
    'hidden s',
    'exposed s',
  )
  found = [head]
  for plan in plans:
    if plan.fits:
      p = predict(plan, chip)
      found.append(
        (
          plan.layout,
          f'{plan.model_flops / 1e12:,.0f}',
          f'{plan.hardware_flops / 1e12:,.0f}',
          f'{sum(w.bytes for w in plan.work) / 1e9:,.1f}',
          f'{p.compute:.3g}',
          f'{p.memory:.3g}',
          f'{p.hidden:.3g}',
          f'{p.exposed:.3g}',
        )
      )
  return found


def temporary_rows(plan: Plan) -> list[tuple]:
  """The largest arrays that live for a part of the step."""
  return [
    ('array', 'made by', 'MiB'),
    *(
      (t.shape, f'`{t.source}`', f'{t.bytes / 2**20:,.1f}')
      for t in plan.temporaries
    ),
  ]


def markdown(
  title: str,
  plans: Sequence[Plan],
  said: Sequence[str],
  command: str,
  chip: Chip | None = None,
) -> str:
  """A page: the ranking, then the details of what fits."""
  plans = ranked(plans, chip)
  pod = plans[0].pod
  lines = [
    _INTRODUCTION.format(
      title=title,
      command=command,
      ceilings=ceilings(chip or pod.chip),
      versions=reports.listed(
        next((p.versions for p in plans if p.versions), {})
      ),
      devices=f'a chip is {pod.chip.devices}'
      if pod.chip.devices > 1
      else 'a chip',
    )
  ]
  lines += [*reports.markdown(rows(plans, chip), 2), '']
  lines += [f'- {note}' for note in said] + [''] * bool(said)
  lines += [
    '## Memory, GiB of a device',
    '',
    *reports.markdown(memory_rows(plans), 1),
    '',
    '## Seconds',
    '',
    *reports.markdown(flop_rows(plans, chip), 1),
    '',
  ]
  for plan in plans:
    if plan.fits:
      lines += [
        f'## {plan.layout}: {mesh_text(plan.mesh)}',
        '',
        'What a device sends in a step:',
        '',
        *reports.markdown(collective_rows(plan, chip), 3),
        '',
        'The largest temporaries:',
        '',
        *reports.markdown(temporary_rows(plan), 2),
        '',
      ]
  return '\n'.join(lines)


def ceilings(chip: Chip) -> str:
  """Which rates times are predicted by."""
  known = chip == chips.CHIPS[chip.name]
  return (
    f'{"the data sheet" if known else "rates measured on one"} of the '
    f'{chip.name} '
    f'({chip.flops / 1e12:g} TFLOP/s, {chip.memory_rate / 1e9:g} GB/s, '
    f'links {chip.link_rate / 1e9:g} GB/s, network '
    f'{chip.network_rate / 1e9:g} GB/s a chip)'
  )
