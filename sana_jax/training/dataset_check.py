"""Checks that all processes, and a resumed run, see the same dataset.

The order of records is a function of their number and their buckets (see
data/order.py). A source skips files that it cannot open, so that a host that
lacks a file would silently read other records than the rest.
"""

from collections.abc import Sequence
import json
import zlib

from absl import logging
from etils import epath
import jax
from jaxtyping import Int
import numpy as np

from sana_jax.errors import TransientError
from sana_jax.files import parse_json
from sana_jax.printable import counted, printable
from sana_jax.training.task import Records, Task
from sana_jax.training.workdir import (
  all_gather,
  barrier,
  read_state,
  write_atomically,
)

_FILE = 'records.json'


def records_of(members: Sequence[Int[np.ndarray, '_']]) -> Records:
  """Count and checksum of the records of each bucket."""
  checksum = 0
  for bucket in members:
    sizes = np.asarray([len(bucket)], np.int64)
    for numbers in sizes, np.ascontiguousarray(bucket, np.int64):
      checksum = zlib.crc32(numbers, checksum)
  return Records(sum(map(len, members)), checksum)


def check(workdir: epath.Path, task: Task) -> None:
  """Runs both checks below, for a task that declares its records."""
  if records := task.data.records:
    check_processes(records)
    check_run(workdir, records)


def check_processes(records: Records) -> None:
  """Raises TransientError unless all processes pass the same records."""
  found = [Records(*map(int, row)) for row in all_gather(records)]
  if other := [i for i, x in enumerate(found) if x != found[0]]:
    raise TransientError(
      f'The processes do not see the same data: process 0 has '
      f'{counted(found[0].count, "usable record")} and process {other[0]} '
      f'{found[other[0]].count}, or images of other sizes; check that '
      'each host can read all of config.data.path, and delete '
      'config.data.index_path if it may index other data.',
      key='data.path',
      value=[x.count for x in found],
    )


def check_run(workdir: epath.Path, records: Records) -> None:
  """Warns if the run had other records before, and stores the current ones."""
  path = workdir / _FILE
  current = records._asdict()
  before = read_state(path)
  barrier('records.json is read')
  try:
    previous = current if before is None else parse_json(before)
  except ValueError as error:
    logging.warning(
      '%s is damaged (%s): whether the data have changed since '
      'this run started is unknown.',
      path,
      error,
    )
    previous = current
  if previous != current:
    logging.warning(
      'The data have changed since this run started: %s before, %s now. From '
      'here on the order of examples differs, and some are repeated.',
      printable(before.decode(errors='replace'), 200),
      json.dumps(current),
    )
  if jax.process_index() == 0:
    write_atomically(path, json.dumps(current).encode())
