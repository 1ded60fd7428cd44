"""Records of the train step's variants: as a table, a page, and JSON."""

from collections.abc import Sequence
import dataclasses

from sana_jax.analysis import profile_breakdown as losses
from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.tools import tables
from sana_jax.tools.bench import training
from sana_jax.tools.bench.matrix import Facts, Record, Variant

TARGET = .5  # MFU.
_INTRODUCTION = """# Training: the step in all its variants

The step on random cached latents and text, with each remat policy and with
kernels off and on, in one run, each in a process of its own. `MFU` is three
times the forward pass's products and convolutions in the best round, by the
device's dense peak of its data sheet, and by a large product that was measured
in the same run. The target is 50 %.

The losses are of a profile of the fastest variant: what of the step is no model
FLOPs at the device's peak (the published one where there is one), by kind of
operation. `computed again` is remat's share, `idle` is when the device runs
nothing.

Made by `sana-jax bench matrix --out docs/bench`; each table's command is above
it.
"""


@dataclasses.dataclass(frozen=True)
class Run:
  """All variants, and what they were measured with."""

  records: list[Record]
  facts: Facts
  date: str
  versions: dict[str, str]
  command: str


def mfu(run: Run, record: Record) -> tuple[float | None, float]:
  """By the published and by the measured rate of a product."""
  rate = 3 * record.forward_flops / record.best / run.facts.count
  published = run.facts.published
  return rate / published if published else None, rate / run.facts.measured


def rows(run: Run) -> list[tuple[str, ...]]:
  """Cells of the table."""
  return [('model', 'px', 'images', 'remat', 'kernels', 'seconds', 'images/s',
           'MFU, published', 'MFU, measured', 'GiB', 'failed'),
          *(_row(run, r) for r in run.records)]


def _row(run, r):
  asked = r.variant.request
  what = (model(asked), str(asked.size), str(asked.batch), asked.remat,
          r.variant.kernels)
  if not r.seconds:
    return (*what, '', '', '', '', '', r.failed.replace('|', ' '))
  published, measured = mfu(run, r)
  return (*what, f'{r.best:.3g}', f'{asked.batch / r.best:.3g}',
          '' if published is None else f'{published:.1%}', f'{measured:.1%}',
          f'{r.peak_bytes / 2**30:.1f}' if r.peak_bytes else '', '')


def model(asked: training.Request) -> str:
  """Its name, and how many blocks where these are not all."""
  return asked.model + (f' ({asked.depth} blocks)' if asked.depth else '')


def fastest(run: Run) -> list[Record]:
  """The best variant of each model, among those that ran."""
  best = {}
  for r in run.records:
    key = model(r.variant.request)
    if r.seconds and (key not in best or r.best < best[key].best):
      best[key] = r
  return list(best.values())


def findings(run: Run) -> list[str]:
  """For each model: how far the best variant is, and its largest losses."""
  lines = []
  for r in fastest(run):
    published, measured = mfu(run, r)
    share = measured if published is None else published
    lines += [
      f'{model(r.variant.request)}: remat {r.variant.request.remat} with '
      f'kernels {r.variant.kernels} is the fastest, MFU {share:.1%} (the '
      f'target of {TARGET:.0%} is {"met" if share >= TARGET else "not met"}); '
      + ('it loses most to' if r.times else
         f'its profile failed: {r.unprofiled}'),
      *(f'{i}. {said}' for i, said in enumerate(losses.largest(r.times), 1)),
      '']
  return lines[:-1]


def title(run: Run) -> str:
  """The device and what products reach on it."""
  f = run.facts
  mesh = ', '.join(f'{axis} {n}' for axis, n in f.mesh.items())
  rates = [f'a large product reaches {f.measured / 1e12:.3g} TFLOP/s']
  if f.published:
    rates.append(f'published are {f.published / 1e12:.3g}')
  return f'{f.count} x {f.name}, {mesh}: {", ".join(rates)}'


def table(run: Run) -> str:
  """Plain text; the table comes last."""
  return '\n'.join(
    [*findings(run), '', title(run), *tables.plain(rows(run), 5)])


def markdown(runs: Sequence[Run]) -> str:
  """The page: a table for each run, and what is lost."""
  lines = [_INTRODUCTION]
  for run in runs:
    lines += [
      *tables.opening(run, title(run)),
      *tables.markdown(rows(run), 5), '', *findings(run), '']
  return '\n'.join(lines)


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  try:
    return _run(parse_json(text))
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise UserError(f'This is not what sana-jax bench wrote ({e}); give a file '
                    'of the same command.') from e


def _run(found):
  found['facts'] = Facts(**found['facts'])
  for r in found['records']:
    v = r['variant']
    r['variant'] = Variant(training.Request(**v['request']), v['kernels'])
    r['times'] = [losses.Time(**t) for t in r['times']]
  found['records'] = [Record(**r) for r in found['records']]
  return Run(**found)
