"""Plain-text description of a source, for inspection before training."""

from collections import Counter
from collections.abc import Iterator, Sequence
import time

import numpy as np

from sana_jax.data.records import BadRecord
from sana_jax.data.sources import DescribedSource
from sana_jax.printable import counted, printable
from sana_jax.typing import Int

_SIDES = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096)
_RATIOS = (0.25, 0.4, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 2.5, 4)
_NAMED = 5
_BAR, _NAME, _CAPTION, _ERROR = 40, 40, 70, 300  # Characters.


def description(source: DescribedSource, reads: int) -> Iterator[str]:
  """Lines on sizes and scores of all records, and on `reads` decoded ones."""
  yield counted(len(source), 'record')
  yield from _skipped(source)
  sizes = source.sizes()
  known = sizes[(sizes > 0).all(axis=1)]
  if len(known):
    yield 'shorter side, px'
    yield from histogram(known.min(axis=1), _SIDES)
    yield 'height / width'
    yield from histogram(known[:, 0] / known[:, 1], _RATIOS)
  if unknown := len(sizes) - len(known):
    yield f'{unknown:,} have an image whose size cannot be read'
  scores = source.scores()
  scores = scores[np.isfinite(scores)]
  if len(scores):
    yield (
      f'CLIP scores of {len(scores):,}: {scores.min():.1f} to '
      f'{scores.max():.1f}, median {np.median(scores):.1f}'
    )
  yield from _read(source, reads)


def histogram(values: np.ndarray, edges: Sequence) -> Iterator[str]:
  """Yields a line with a bar for each interval between non-empty ones."""
  counts = Counter(np.searchsorted(edges, values, side='right').tolist())
  for place in range(min(counts), max(counts) + 1):
    if place == 0:
      label = f'below {edges[0]:g}'
    elif place == len(edges):
      label = f'{edges[-1]:g} or more'
    else:
      label = f'{edges[place - 1]:g} to {edges[place]:g}'
    count = counts[place]
    bar = '#' * -(-_BAR * count // max(counts.values()))
    yield f'  {label:>14}  {bar:<{_BAR}} {count:,}'


def spread(total: int, count: int) -> Int[np.ndarray, 'n']:
  """Up to `count` evenly spaced indices."""
  return np.unique(np.linspace(0, total - 1, min(total, count)).astype(int))


def _read(source, reads):
  """Captions and bad records among `reads` decoded records."""
  inner, names, words, bad, texts = source.source, Counter(), [], [], []
  indices = spread(len(source), reads)
  start = time.perf_counter()
  for index in indices.tolist():
    try:
      record = inner[index]
    except BadRecord as error:
      bad.append(error)
      continue
    names.update(record['captions'].keys())
    words.append(len(record['caption'].split()))
    texts.append(record['caption'])
  seconds = time.perf_counter() - start
  yield (
    f'{counted(len(indices), "record")} read in {seconds:.2f} s '
    f'({len(indices) / seconds:,.0f} / s), {len(bad)} bad'
  )
  yield from _named(bad)
  if words:
    named = ', '.join(
      f'{printable(name, _NAME)} {count}'
      for name, count in names.most_common(_NAMED)
    )
    more = f' and {len(names) - _NAMED:,} more' if len(names) > _NAMED else ''
    yield (
      f'captions of {min(words)} to {max(words)} words, median '
      f'{np.median(words):g}; by name: {named}{more}'
    )
    yield from (f'  {printable(text[:_CAPTION])}' for text in texts[:3])


def _skipped(source):
  """Files that the source leaves out, and records counted as bad at opening."""
  while hasattr(source, 'source'):
    source = source.source
  if remarks := getattr(source, 'remarks', None):
    yield from (printable(line, _ERROR) for line in remarks.lines())
  if reasons := getattr(source, 'bad', None) and source.bad.reasons:
    bad = [BadRecord(name, reason) for name, reason in reasons.items()]
    yield f'{len(bad):,} skipped'
    yield from _named(bad)


def _named(bad):
  yield from (f'  {printable(error, _ERROR)}' for error in bad[:_NAMED])
  if len(bad) > _NAMED:
    yield f'  and {len(bad) - _NAMED:,} more'
