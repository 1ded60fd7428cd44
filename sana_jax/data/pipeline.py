"""Batches of a source: shuffled, resumable, the same on any number of hosts.

The content of a batch is a pure function of (seed, step), see order.py. An
unreadable record is replaced by one that is drawn for its step and row, so a
failure on one host changes neither the other hosts' rows nor a resumed run.
"""

from collections.abc import Callable, Sequence
import itertools
import sys
from typing import Any

import grain
import jax
import numpy as np

from sana_jax.data.order import Order, shuffled
from sana_jax.data.records import (
  BadRecord,
  BadRecords,
  DAMAGED,
  MAX_BAD_FRACTION,
  name_of,
)
from sana_jax.data.sources import Source
from sana_jax.errors import UserError

_ATTEMPTS = 100  # Limit of replacements tried for one row.


def batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  rows: Sequence[int] | None = None,
  order: Order | None = None,
  read: Callable[[int, int], Any] | None = None,
  map_fn: Callable[[Any, int], Any] | None = None,
  num_threads: int = 4,
  max_bad_fraction: float = MAX_BAD_FRACTION,
  bad: BadRecords | None = None,
) -> grain.IterDataset:
  """Infinite data set of the `rows` of every batch of `batch_size`.

  `read` is given a record's index and the step, which selects one of several
  captions; its default is `source[index]`. `map_fn` is given an example and the
  bucket of its batch. Records that fail to decode are replaced and counted in
  `bad`; too many raise UserError.

  Its iterator is one of grain, whose state is the number of batches read, the
  same on every host. Each thread loads one batch, which helps if decoding is
  slow; 0 is fastest for arrays in memory.
  """
  order = order or shuffled(len(source), batch_size, seed)
  rows = range(batch_size) if rows is None else [int(row) for row in rows]
  if bad is None:
    bad = BadRecords(len(source), max_bad_fraction)

  read = read or (lambda record, _: source[record])

  def load(step, row):
    for record in itertools.chain(
      [order.record(step, row)],
      (order.substitute(step, row, i) for i in range(_ATTEMPTS)),
    ):
      try:
        example = read(record, step)
        if map_fn is not None:
          example = map_fn(example, order.bucket(step))
      except UserError:
        raise
      except BadRecord as error:
        bad.add(error)
      except DAMAGED as error:
        bad.add(BadRecord(name_of(source, record), repr(error)))
      else:
        bad.saw_good()
        return example
    raise UserError(
      f'{_ATTEMPTS} consecutive records could not be read ({bad.last}); '
      'repair or remove them.',
      key='data.path',
      value=list(bad.reasons),
    )

  def batch(step):
    examples = [load(step, row) for row in rows]
    return jax.tree.map(lambda *x: np.stack(x), *examples)

  threads = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=2 * num_threads
  )
  return grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(threads)
