"""What `sana-jax bench step --against-loop` says."""

import numpy as np

from sana_jax.tools.bench.loop import Block
from sana_jax.tools.report import Report, Rows, Run


def _blocks(run: Run) -> tuple[list[Block], list[Block]]:
  """Those of training, and the bare ones, of which there is one more."""
  return run.records[1::2], run.records[::2]


def ratios(run: Run, saves: int, of: str = 'total') -> list[float]:
  """Of blocks with so many saves, the speed by that of the bare ones around.

  `of` is 'total', or 'cpu' for CPU time.
  """
  train, bare = _blocks(run)
  seconds = lambda block: max(getattr(block, of), 1e-9)
  return [
    (seconds(before) + seconds(after)) / 2 / seconds(mine)
    for before, mine, after in zip(bare, train, bare[1:])
    if mine.saves == saves
  ]


def as_configured(run: Run) -> float:
  """The ratio with a checkpoint as often as the config has one.

  Medians of the two kinds of blocks differ by what one costs.
  """
  plain, saving = (1 / np.median(ratios(run, saves)) for saves in (0, 1))
  of_each = len(run.records[1].seconds) / run.facts['save_every']
  return 1 / (plain + (saving - plain) * of_each)


def rows(run: Run) -> Rows:
  """Cells of the table."""
  return [
    (
      'by',
      'images/s',
      'p50',
      'p90',
      'p99',
      'ratio',
      'CPU ratio',
      'data wait',
      'threads',
    ),
    *(
      _trained(run, by, saves)
      for saves, by in enumerate(('train', 'train, a checkpoint a block'))
    ),
    ('bare', *_speed(run, _blocks(run)[1]), '', '', '', ''),
  ]


def _trained(run, by, saves):
  blocks = [b for b in _blocks(run)[0] if b.saves == saves]
  waited = sum(b.waited for b in blocks) / sum(b.total for b in blocks)
  return (
    by,
    *_speed(run, blocks),
    _quartiles(ratios(run, saves), '.3f'),
    _quartiles(ratios(run, saves, 'cpu'), '.3f'),
    f'{waited:.2%}',
    str(run.facts['threads']),
  )


def _speed(run, blocks):
  rates = [run.facts['batch_size'] * len(b.seconds) / b.total for b in blocks]
  seconds = [x for b in blocks for x in b.seconds]
  return (
    _quartiles(rates, '.1f'),
    *(f'{x:.4f}' for x in np.percentile(seconds, [50, 90, 99])),
  )


def _quartiles(values, form):
  low, median, high = np.percentile(values, [25, 50, 75])
  return f'{median:{form}} [{low:{form}}, {high:{form}}]'


def title(run: Run) -> str:
  """What was run, in a line."""
  facts = run.facts
  mesh = ', '.join(f'{axis} {n}' for axis, n in facts['mesh'].items() if n > 1)
  count = f'{len(run.records) // 2} blocks of {len(run.records[1].seconds)}'
  return ', '.join(
    filter(
      None,
      [
        facts['config'],
        facts['data'],
        f'{facts["batch_size"]} images a batch',
        mesh,
        f'{count} steps',
        run.device,
      ],
    )
  )


def _summary(run):
  return [
    f'With a checkpoint every {run.facts["save_every"]:,} steps, as '
    f'configured, the ratio is {as_configured(run):.3f}.'
  ]


LOOP = Report(
  'loop.md',
  'loop-*.json',
  """# Training: the loop

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

Made by `sana-jax bench step --against-loop --out docs/bench`; each table's
command is above it.
""",
  Block,
  rows,
  1,
  title,
  _summary,
)
