"""Processes and resumed runs with other records are reported."""

import logging
import os

from etils import epath
import numpy as np
import pytest

from sana_jax.errors import TransientError, UserError
from sana_jax.training import dataset_check
from sana_jax.training.dataset_check import Records

pytestmark = pytest.mark.fast


def test_records_and_their_buckets_make_an_order():
  one = dataset_check.records_of([np.array([0, 2]), np.array([1])])
  assert one == dataset_check.records_of([np.array([0, 2]), np.array([1])])
  assert one.count == 3
  for other in ([[0, 1], [2]], [[0], [2, 1]], [[0, 2], [], [1]]):
    found = dataset_check.records_of([np.array(x, int) for x in other])
    assert found.count == 3 and found.checksum != one.checksum


def test_processes_with_different_records_raise(monkeypatch):
  dataset_check.check_processes(Records(300, 1))
  for count, checksum in (250, 1), (300, 2):
    monkeypatch.setattr(
      dataset_check,
      'all_gather',
      lambda ours, x=(count, checksum): np.array([ours, x]),
    )
    with pytest.raises(TransientError) as error:
      dataset_check.check_processes(Records(300, 1))
    assert error.value.value == [300, count]


def test_data_that_changed_between_two_runs_are_logged(tmp_path, caplog):
  workdir = epath.Path(tmp_path)
  with caplog.at_level(logging.WARNING, 'absl'):
    for _ in range(2):
      dataset_check.check_run(workdir, Records(300, 1))
    assert not caplog.records
    dataset_check.check_run(workdir, Records(250, 1))
    assert '"count": 300' in caplog.text and '"count": 250' in caplog.text
    caplog.clear()
    dataset_check.check_run(workdir, Records(250, 1))  # They are those now.
  assert not caplog.records


@pytest.mark.parametrize(
  'damage', [b'', b'{', b'\xff', b'[' * 10**5, b'1' * 5000]
)
def test_damaged_records_are_rewritten(tmp_path, caplog, damage):
  (tmp_path / 'records.json').write_bytes(damage)
  dataset_check.check_run(epath.Path(tmp_path), Records(300, 1))
  assert 'records.json' in caplog.text
  caplog.clear()
  dataset_check.check_run(epath.Path(tmp_path), Records(300, 1))
  assert not caplog.records


def test_a_fifo_in_place_of_the_records_raises(tmp_path):
  os.mkfifo(tmp_path / 'records.json')
  with pytest.raises(UserError, match='records.json'):
    dataset_check.check_run(epath.Path(tmp_path), Records(300, 1))
