"""What `sana-jax bench step` says: of steps, of plans and of compilers."""

from collections.abc import Sequence

from sana_jax.analysis import profile_breakdown
from sana_jax.tools.bench.step import Record
from sana_jax.tools.report import columns, Report, Rows, Run

TARGET = 0.5  # MFU.
_GIB = 2**30


def _record(times=(), **facts):
  """Of JSON, which has dicts."""
  return Record(
    **facts, times=[profile_breakdown.Time(**time) for time in times]
  )


def fastest(run: Run) -> list[Record]:
  """The best record of each config and size of its batch that ran."""
  best = {}
  for r in run.records:
    key = _subject(r)
    if r.seconds and (key not in best or r.best < best[key].best):
      best[key] = r
  return list(best.values())


def findings(run: Run) -> list[str]:
  """For each config with a profile: how far it is, and its largest losses."""
  lines = []
  for r in fastest(run):
    if not (r.times or r.unprofiled):
      continue
    share = r.mfu(r.published or r.ceilings['flops'])
    said = 'met' if share >= TARGET else 'not met'
    lines += [
      f'{_subject(r)}: remat {r.remat} by {r.by} is the fastest, MFU '
      f'{share:.1%} (the target of {TARGET:.0%} is {said}); '
      + (
        'it loses most to' if r.times else f'its profile failed: {r.unprofiled}'
      ),
      *(
        f'{i}. {said}'
        for i, said in enumerate(profile_breakdown.largest(r.times), 1)
      ),
      '',
    ]
  return lines[:-1]


def _subject(r):
  """The config without its memory policy, which a sweep changes."""
  return '+'.join(
    part for part in r.config.split('+') if not part.startswith('model.remat=')
  )


def _of(number, form):
  return '' if number is None else format(number, form)


def _gib(size):
  return f'{size / _GIB:.2f}' if size else ''


def _measured(run: Run) -> Rows:
  ours = {}
  for r in run.records:
    ours.setdefault(r.config, r)
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
      'ratio': ran(
        lambda r: (
          '' if r is ours[r.config] else (f'{ours[r.config].best / r.best:.2f}')
        )
      ),
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
      'mesh': lambda r: ', '.join(
        f'{k} {n}' for k, n in r.mesh.items() if n > 1
      ),
      'state GiB': lambda r: _gib(r.state_bytes),
      'temporary GiB': lambda r: _gib(r.temporary_bytes),
      'kernels': lambda r: counted(r.kernels),
      'collectives': lambda r: counted(r.collectives),
    },
  )


def _planned(run: Run) -> Rows:
  error = lambda r, form: f'{r.predicted["total"] / r.best - 1:{form}}'
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
      'error': ran(lambda r: error(r, '+.0%')),
      'predicted GiB': ran(lambda r: f'{r.needed_bytes / _GIB:.3f}'),
      'measured GiB': used(lambda r: f'{r.used_bytes / _GIB:.3f}'),
      'error of GiB': used(
        lambda r: f'{r.needed_bytes / r.used_bytes - 1:+.1%}'
      ),
      'GFLOP': ran(lambda r: f'{r.flops / 1e9:,.1f}'),
      'moves GB': ran(lambda r: f'{r.moved / 1e9:,.2f}'),
      'product TFLOP/s': ran(lambda r: f'{r.ceilings["flops"] / 1e12:.3g}'),
      'copy GB/s': ran(lambda r: f'{r.ceilings["memory_rate"] / 1e9:.3g}'),
      'pages s': ran(
        lambda r: (
          f'{r.temporary_bytes / rate:.3g}'
          if (rate := r.ceilings.get('page_rate'))
          else ''
        )
      ),
    },
  )


def _mesh(records: Sequence[Record]) -> str:
  mesh = next((r.mesh for r in records if r.mesh), {})
  return ', '.join(f'{axis} {n}' for axis, n in mesh.items() if n > 1)


def _title(run):
  return ', '.join(filter(None, [run.device, _mesh(run.records)]))


MEASURED = Report(
  'step.md',
  'step-*.json',
  """# Training: the step

Seconds of a step on random cached latents and text, the best of several rounds.
Each config has a process of its own; `by` is who computes it: sides of one
config that were given by `--against` take turns from the same state. `MFU` is
three times the forward pass's products and convolutions in that time (what
remat computes again does not count), by the device's dense peak of its data
sheet, and by a large product in the same process. `predicted` is what `sana-jax
plan` says of the program at the measured rates. `ratio` is the time of the
config's first row by this one's: below 1, the first is faster.

Losses are of a profile of the fastest: what of the step is no model FLOPs at
the device's peak (the published one where there is one), by kind of operation.
`computed again` is remat's share, `idle` is when the device runs nothing. The
target is an MFU of 50 %.

Made by `sana-jax bench step --out docs/bench`; each table's command is above
it.
""",
  _record,
  _measured,
  3,
  _title,
  findings,
)

COMPILED = Report(
  'step_compiled.md',
  'compiled-step-*.json',
  """# Training: the step, compiled

What the compiler of the chip says of one chip's memory, and how often the
program calls kernels and collectives (in the loop over blocks once for all of
them); nothing has run.

Made by `sana-jax bench step --compile-for TOPOLOGY --out docs/bench`; each
table's command is above it.
""",
  _record,
  _compiled,
  3,
  how=lambda run: 'Compiled',
)

PLANNED = Report(
  'plan.md',
  'plan-*.json',
  """# Plans: predicted and measured

The train step that `sana-jax plan` compiles, here for a device that is there:
read as a plan reads it, then run on random data, each config in a process of
its own. `predicted s` is the plan's: each operation of the program by its
roofline, at ceilings that were measured in the same process afterwards (a large
product in the config's type, a large copy in place); `compute` and `memory` are
its seconds of operations that are bound by products, and by memory. `measured
s` is the best round of several after a first one; `median` is beside it.
`predicted GiB` is XLA's memory analysis (arguments, temporaries, results,
code), as `plan` sums it. `measured GiB` is what the device had in use at most;
on a CPU, what the process had more than before it made the arguments. An error
is predicted / measured - 1. The last columns are what the program does, and the
ceilings.

A roofline is the least that a step takes, so that errors of time are below 0;
[planning](../planning.md) says what it leaves out. On a CPU these are most of
all pages: XLA allocates the temporaries anew in each step, and the system
zeroes and maps them; `pages s` is what that takes at the rate measured here.

Made by `sana-jax bench step --against-plan --out docs/bench`; each table's
command is above it.
""",
  _record,
  _planned,
  2,
  _title,
)
