"""Whether all processes, and a run that goes on, draw from the same records.

Which record stands where is a function of their number and their buckets (see
data/order.py). A source leaves out what it cannot open, so that a host that
misses a file would draw others than the rest do, unnoticed.
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
from sana_jax.printable import printable
from sana_jax.training.task import Records, Task
from sana_jax.training.workdir import (
  gather,
  meet,
  read_state,
  write_atomically,
)

_FILE = 'records.json'


def of_buckets(members: Sequence[Int[np.ndarray, '_']]) -> Records:
  """Of the records of each bucket."""
  checksum = 0
  for bucket in members:
    sizes = np.asarray([len(bucket)], np.int64)
    for numbers in sizes, np.ascontiguousarray(bucket, np.int64):
      checksum = zlib.crc32(numbers, checksum)
  return Records(sum(map(len, members)), checksum)


def check(workdir: epath.Path, task: Task) -> None:
  """Both of the following, for a task that says what it draws from."""
  if records := task.data.records:
    check_processes(records)
    check_run(workdir, records)


def check_processes(records: Records) -> None:
  """Raises TransientError unless all processes call it with the same."""
  found = [Records(*map(int, row)) for row in gather(records)]
  if other := [i for i, x in enumerate(found) if x != found[0]]:
    raise TransientError(
      f'The processes do not see the same data: process 0 has '
      f'{found[0].count} usable records and process {other[0]} '
      f'{found[other[0]].count}, or other sizes of their images; see that '
      'each host can read all of config.data.path, and delete '
      'config.data.index_path where it may be of other data.'
    )


def check_run(workdir: epath.Path, records: Records) -> None:
  """Warns where the run had others before, and notes those that it has."""
  path = workdir / _FILE
  ours = records._asdict()
  before = read_state(path)
  meet('records.json is read')
  try:
    theirs = ours if before is None else parse_json(before)
  except ValueError as error:
    logging.warning(
      '%s is damaged (%s): whether the data have changed since '
      'this run began is unknown.',
      path,
      error,
    )
    theirs = ours
  if theirs != ours:
    logging.warning(
      'The data have changed since this run began: %s before, %s now. From '
      'here on examples come in another order, and some again.',
      printable(before.decode(errors='replace'), 200),
      json.dumps(ours),
    )
  if jax.process_index() == 0:
    write_atomically(path, json.dumps(ours).encode())
