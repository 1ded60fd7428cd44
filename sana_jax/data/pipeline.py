"""Batches of a source: shuffled, resumable, the same on any number of hosts.

Which record stands where is a pure function of (seed, position). Position i of
the order belongs to the step i // (batch_size * process_count), and within it
to the host that its place falls to, so the global batch of a step, row by row,
does not depend on the number of hosts. A bad record is replaced by the host's
next good one, which shifts the rest of that host's rows and nothing else.
"""

from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from sana_jax.data.records import BadRecord, BadRecords, MAX_BAD_FRACTION
from sana_jax.data.sources import Source
from sana_jax.errors import UserError

# Raised for damaged data by sources and transforms.
_DAMAGED = (ValueError, OSError, EOFError, SyntaxError, LookupError)


def batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  shuffle: bool = True,
  repeat: bool = True,
  map_fn: Callable[[Any], Any] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 4,
  max_bad_fraction: float = MAX_BAD_FRACTION,
  bad: BadRecords | None = None,
) -> grain.IterDataset:
  """This host's batches of `batch_size` examples, each put through map_fn.

  With `repeat` it never ends, and every pass has its own order. Without, it is
  one pass; the last batch of a host may be short, and the last hosts may have
  one batch fewer. Records that fail to decode are skipped and counted in
  `bad`; too many raise UserError.

  `iter()` of it is a grain iterator: `get_state`, `set_state` and grain's
  orbax handlers stop and resume it exactly. Threads help where decoding is
  slow; for arrays in memory 0 is the fastest.
  """
  if not len(source):
    raise UserError('The data source is empty; set the data path to one with '
                    'records.')
  if batch_size < 1:
    raise UserError(f'batch_size={batch_size} is not positive; set it to 1 or '
                    'more examples a host.')
  if bad is None:
    bad = BadRecords(len(source), max_bad_fraction)
  order = grain.MapDataset.range(len(source))
  if shuffle:
    order = order.shuffle(_grain_seed(seed))
  if repeat:
    order = order.repeat()

  def load(index):
    """The example at a position of this host, or None for a bad record."""
    step, row = divmod(index, batch_size)
    record = order[(step * process_count + process_index) * batch_size + row]
    try:
      example = source[record]
      example = example if map_fn is None else map_fn(example)
    except UserError:
      raise
    except BadRecord as error:
      return bad.add(error)
    except _DAMAGED as error:
      return bad.add(BadRecord(f'record {record}', repr(error)))
    bad.saw_good()
    return example

  count = _share(len(order), batch_size, process_index, process_count)
  threads = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
  return (grain.MapDataset.range(count).map(load)
          .to_iter_dataset(threads).batch(batch_size))


def _share(total, batch_size, process_index, process_count):
  """How many of `total` positions fall to the host."""
  steps, rest = divmod(total, batch_size * process_count)
  last = min(max(rest - process_index * batch_size, 0), batch_size)
  return steps * batch_size + last


def _grain_seed(seed):
  # grain's second pass with seed s is its first with s + 1; ours is unrelated.
  return int(np.random.SeedSequence(seed).generate_state(1)[0])
