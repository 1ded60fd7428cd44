"""Records of the training loop: as a table, a page of the docs, and JSON."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from sana_jax.tools import tables
from sana_jax.tools.bench.loop import Block

_INTRODUCTION = """# Training: the loop

What the framework costs: `train` is a run of `sana-jax train`, with its data,
log, checkpoints and warnings; `bare` is a loop that calls the same compiled
step, from the same state, on one batch that stays on the devices. They take
turns in one process on one machine, block by block. Both wait for the step
before the one that they have just handed over.

`images/s` is the median over blocks, with quartiles; `p50`, `p90` and `p99` are
of the seconds of all steps. Every second block of the run has a checkpoint in
its middle, which is far more often than the configs save; these blocks stand in
a row of their own. Pictures are not drawn. `ratio` is the mean seconds of the
two bare blocks around a block by its own, the median over blocks with
quartiles: at 0.9 the framework costs 10 %. `CPU ratio` is the same of the CPU
seconds of all threads, which other work on the machine does not lengthen; it
does not see waiting. `data wait` is the share of the run's time that it waited
for batches, `threads` how many read ahead.

Made by `sana-jax bench loop --out docs/bench`; each table's command is above
it.
"""


@dataclasses.dataclass(frozen=True)
class Run:
  """Blocks of both sides in their order, and what they were measured with.

  Attributes:
    run: of training.
    bare: of the step alone; the first before the run's first, one more.
    threads: that read ahead.
    data: what was read.
    save_every: steps from one checkpoint to the next, by the config.
  """

  config: str
  data: str
  batch_size: int
  run: list[Block]
  bare: list[Block]
  threads: int
  save_every: int
  mesh: dict[str, int]
  date: str
  device: str
  versions: dict[str, str]
  command: str
  note: str = ''


def ratios(run: Run, saves: int) -> list[float]:
  """Of each block with so many: its speed by that of the bare ones around."""
  return [(before.total + after.total) / 2 / mine.total for before, mine, after
          in zip(run.bare, run.run, run.bare[1:]) if mine.saves == saves]


def cpu_ratios(run: Run, saves: int) -> list[float]:
  """The same of CPU time."""
  return [(before.cpu + after.cpu) / 2 / max(mine.cpu, 1e-9)
          for before, mine, after in zip(run.bare, run.run, run.bare[1:])
          if mine.saves == saves]


def as_configured(run: Run) -> float:
  """The ratio with a checkpoint as often as the config has one.

  Medians of the two kinds of blocks differ by what one costs.
  """
  plain, saving = (1 / np.median(ratios(run, saves)) for saves in (0, 1))
  of_each = len(run.run[0].seconds) / run.save_every
  return 1 / (plain + (saving - plain) * of_each)


def rows(run: Run) -> list[tuple[str, ...]]:
  """Cells of the table."""
  return [
    ('by', 'images/s', 'p50', 'p90', 'p99', 'ratio', 'CPU ratio',
     'data wait', 'threads'),
    *(_trained(run, by, saves) for saves, by in enumerate(
      ('train', 'train, a checkpoint a block'))),
    ('bare', *_speed(run, run.bare), '', '', '', '')]


def _trained(run, by, saves):
  blocks = [b for b in run.run if b.saves == saves]
  waited = sum(b.waited for b in blocks) / sum(b.total for b in blocks)
  return (by, *_speed(run, blocks), _quartiles(ratios(run, saves), '.3f'),
          _quartiles(cpu_ratios(run, saves), '.3f'), f'{waited:.2%}',
          str(run.threads))


def _speed(run, blocks):
  rates = [run.batch_size * len(b.seconds) / b.total for b in blocks]
  seconds = [x for b in blocks for x in b.seconds]
  return (_quartiles(rates, '.1f'),
          *(f'{x:.4f}' for x in np.percentile(seconds, [50, 90, 99])))


def _quartiles(values, form):
  low, median, high = np.percentile(values, [25, 50, 75])
  return f'{median:{form}} [{low:{form}}, {high:{form}}]'


def title(run: Run) -> str:
  """What was run, in a line."""
  mesh = ', '.join(f'{axis} {n}' for axis, n in run.mesh.items() if n > 1)
  return ', '.join(filter(None, [
    run.config, run.data, f'{run.batch_size} images a batch', mesh,
    f'{len(run.run)} blocks of {len(run.run[0].seconds)} steps', run.device]))


def table(run: Run) -> str:
  """Plain text."""
  return '\n'.join([title(run), *tables.plain(rows(run), 1), _summary(run)])


def _summary(run):
  return (f'With a checkpoint every {run.save_every:,} steps, as configured, '
          f'the ratio is {as_configured(run):.3f}.')


def markdown(runs: Sequence[Run]) -> str:
  """The page: a table for each run."""
  lines = [_INTRODUCTION]
  for run in runs:
    lines += [
      *tables.opening(run, title(run)),
      *tables.markdown(rows(run), 1), '', _summary(run), '']
  return '\n'.join(lines)


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  return tables.from_json(text, Run, run=Block, bare=Block)
