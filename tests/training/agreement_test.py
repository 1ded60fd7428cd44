"""Hosts and restarts that see other data are told."""

import logging
import os

from etils import epath
import numpy as np
import pytest

from sana_jax.errors import TransientError, UserError
from sana_jax.training import agreement
from sana_jax.training.agreement import Records


def test_records_and_their_buckets_make_an_order():
  one = agreement.of_buckets([np.array([0, 2]), np.array([1])])
  assert one == agreement.of_buckets([np.array([0, 2]), np.array([1])])
  assert one.count == 3
  for other in ([[0, 1], [2]], [[0], [2, 1]], [[0, 2], [], [1]]):
    found = agreement.of_buckets([np.array(x, int) for x in other])
    assert found.count == 3 and found.checksum != one.checksum


def test_a_process_that_sees_other_data_is_told(monkeypatch):
  agreement.check_processes(Records(300, 1))
  for second, said in (250, 1), (300, 2):
    monkeypatch.setattr(
      agreement, 'gather', lambda ours, x=(second, said): np.array([ours, x])
    )
    with pytest.raises(
      TransientError,
      match=(f'process 0 has 300 usable records and process 1 {second}'),
    ):
      agreement.check_processes(Records(300, 1))


def test_data_that_changed_between_two_runs_are_told(tmp_path, caplog):
  workdir = epath.Path(tmp_path)
  with caplog.at_level(logging.WARNING, 'absl'):
    for _ in range(2):
      agreement.check_run(workdir, Records(300, 1))
    assert not caplog.records
    agreement.check_run(workdir, Records(250, 1))
    assert '"count": 300' in caplog.text and '"count": 250' in caplog.text
    caplog.clear()
    agreement.check_run(workdir, Records(250, 1))  # They are those now.
  assert not caplog.records


@pytest.mark.parametrize(
  'damage', [b'', b'{', b'\xff', b'[' * 10**5, b'1' * 5000]
)
def test_damaged_records_are_written_anew(tmp_path, caplog, damage):
  (tmp_path / 'records.json').write_bytes(damage)
  agreement.check_run(epath.Path(tmp_path), Records(300, 1))
  assert 'records.json is damaged' in caplog.text
  caplog.clear()
  agreement.check_run(epath.Path(tmp_path), Records(300, 1))
  assert not caplog.records


def test_records_that_are_no_file_are_named(tmp_path):
  os.mkfifo(tmp_path / 'records.json')
  with pytest.raises(UserError, match='records.json cannot be read .*move it'):
    agreement.check_run(epath.Path(tmp_path), Records(300, 1))
