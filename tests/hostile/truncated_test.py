"""Files that are cut short while they are read end nothing."""

import os
import pathlib
import subprocess
import sys

import pytest

from sana_jax.data.records import BadRecord
from sana_jax.data.shapes import builder
from sana_jax.data.tfds import TfdsSource

ROOT = pathlib.Path(__file__).parents[2]
# A mapped file ends the process with SIGBUS: in one of its own.
_READS = """
import os, pathlib, sys
import numpy as np
import safetensors.numpy
from sana_jax.data import columns, array_cache

folder = pathlib.Path(sys.argv[1])
safetensors.numpy.save_file({'x': np.zeros((64, 4096), np.uint8)}, folder / 'a')
found = columns.Columns(str(folder))
assert found.rows('a', 'x', 5, 9).shape == (4, 4096)
kept = lambda: array_cache.cached_arrays(
  folder / 'kept', 'key', lambda: {'y': np.ones(2**20, np.int32)})
kept()
arrays = kept()
for file in folder.rglob('*'):
  if file.is_file():
    os.truncate(file, 20000)
assert found.rows('a', 'x', 0, 4).shape == (4, 4096)
try:
  found.rows('a', 'x', 3, 64)
except ValueError as error:
  print(error)
print(arrays['y'].sum())
"""


@pytest.mark.long
def test_a_shard_that_is_cut_short_is_an_error_and_no_signal(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', _READS, tmp_path],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  assert (done.returncode, done.stdout) == (
    0,
    'the file is cut short\n1048576\n',
  ), done.stderr


def test_an_arrayrecord_that_is_cut_short_has_bad_records(tmp_path):
  source = TfdsSource(
    builder.prepare(tmp_path, 16, train_examples=200, heldout_examples=2),
    'train',
    16,
  )
  assert source[0]
  for file in tmp_path.rglob('*train*.array_record*'):
    os.truncate(file, file.stat().st_size // 3)
  with pytest.raises(BadRecord):
    source[198]  # noqa: B018
