"""Report of `sana-jax bench step --against-loop`."""

from collections.abc import Sequence

import numpy as np

from sana_jax.printable import counted
from sana_jax.tools.bench.loop import Block
from sana_jax.tools.report import Bars, joined, Report, Rows, Run

_SPEED = ('images/s', 'p50', 'p90', 'p99')
_HEAD = ('by', *_SPEED, 'ratio', 'CPU ratio', 'data wait', 'threads')


def _blocks(run: Run) -> tuple[list[Block], list[Block]]:
  """(blocks of the run, bare blocks, one more)."""
  return run.records[1::2], run.records[::2]


def ratios(run: Run, saves: int, of: str = 'total') -> list[float]:
  """Speed of blocks with `saves` checkpoints by that of neighbouring bare ones.

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
  """Ratio at the config's checkpoint interval.

  The cost of a checkpoint is the difference of the medians of both kinds of
  blocks.
  """
  plain, saving = (1 / np.median(ratios(run, saves)) for saves in (0, 1))
  of_each = len(run.records[1].seconds) / run.facts['save_every']
  return 1 / (plain + (saving - plain) * of_each)


def rows(run: Run) -> Rows:
  """Cells of the table."""
  return [
    _HEAD,
    _trained(run, 'train', 0),
    _trained(run, 'train, a checkpoint a block', 1),
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
  """Title of a run."""
  facts = run.facts
  mesh = ', '.join(f'{axis} {n}' for axis, n in facts['mesh'].items() if n > 1)
  parts = [
    facts['config'],
    facts['data'],
    f'{counted(facts["batch_size"], "image")} a batch',
    mesh,
    f'{len(run.records) // 2} blocks of '
    f'{counted(len(run.records[1].seconds), "step")}',
    run.device,
  ]
  return ', '.join(filter(None, parts))


def _summary(run):
  return [
    f'With a checkpoint every '
    f'{counted(run.facts["save_every"], "step")}, as '
    f'configured, the ratio is {as_configured(run):.3f}.'
  ]


def result(runs: Sequence[Run]) -> str:
  """Sentence with the ratio of each run, checkpoints included."""
  parts = [
    f'{as_configured(run):.3f} ({run.facts["config"]}, {run.device})'
    for run in runs
  ]
  return (
    'A training run, checkpoints included, has this share of the throughput '
    f'of its compiled step alone, measured: {joined(parts)}.'
  )


def bars(runs: Sequence[Run]) -> Bars:
  """Median images/s of the rows of each run."""
  groups = {}
  for run in runs:
    mine, bare = _blocks(run)
    rate = lambda b, run=run: run.facts['batch_size'] * len(b.seconds) / b.total
    kinds = {
      'run': [b for b in mine if not b.saves],
      'run, a checkpoint in each block': [b for b in mine if b.saves],
      'compiled step alone': bare,
    }
    groups[f'{run.facts["config"]}, {run.device}'] = {
      kind: float(np.median([rate(b) for b in blocks]))
      for kind, blocks in kinds.items()
      if blocks
    }
  axis = 'images a second, more is better'
  return Bars('Measured', axis, groups, form='.1f')


LOOP = Report(
  'loop.md',
  'loop-*.json',
  Block,
  rows,
  1,
  title,
  _summary,
  result=result,
  bars=bars,
)
