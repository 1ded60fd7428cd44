"""Attempt histories are read back, or renamed with a warning."""

import os

import pytest

from sana_jax.launching import history
from sana_jax.launching.restarts import Attempt

pytestmark = pytest.mark.fast

GOOD = '{"step": 3, "exit_code": null, "stop_requested": true}'
DAMAGED = [
  b'',
  b'{',
  b'\xff\xfe',
  b'\0' * 9,
  b'null',
  b'3',
  b'{}',
  b'"x"',
  b'[1]',
  b'[[]]',
  b'[null]',
  b'[{}]',
  b'[{"step": 1, "more": 2}]',
  b'[' * 10**6,
  b'{"a":' * 10**5,
  b'[' + b'9' * 5000 + b']',
  *(
    f'[{GOOD}, {entry}]'.encode()
    for entry in (
      '{"step": "3", "exit_code": 1, "stop_requested": true}',
      '{"step": true, "exit_code": 1, "stop_requested": true}',
      '{"step": 3.5, "exit_code": 1, "stop_requested": true}',
      '{"step": NaN, "exit_code": 1, "stop_requested": true}',
      '{"step": -1, "exit_code": 1, "stop_requested": true}',
      f'{{"step": {"9" * 4000}, "exit_code": 1, "stop_requested": true}}',
      '{"step": 3, "exit_code": "1", "stop_requested": true}',
      '{"step": 3, "exit_code": false, "stop_requested": true}',
      '{"step": 3, "exit_code": 256, "stop_requested": true}',
      '{"step": 3, "exit_code": -9, "stop_requested": true}',
      '{"step": 3, "exit_code": 1e999, "stop_requested": true}',
      '{"step": 3, "exit_code": 1, "stop_requested": 1}',
      '{"step": 3, "exit_code": 1, "stop_requested": null}',
      '{"step": 3, "exit_code": 1, "stop_requested": true, "more": 0}',
      '{"step": 3, "exit_code": 1}',
    )
  ),
]


@pytest.fixture
def notes(tmp_path):
  return tmp_path / 'attempts.json'


def test_a_written_history_is_read_back(notes):
  assert history.read(notes) == []
  attempts = [Attempt(0, 1), Attempt(2**40, None, True), Attempt(3, 255)]
  history.write(notes, attempts)
  assert history.read(notes) == attempts


@pytest.mark.parametrize('data', DAMAGED, ids=lambda data: repr(data[:60]))
def test_a_damaged_history_is_renamed(data, notes, caplog):
  notes.write_bytes(data)
  assert history.read(notes) == []
  (record,) = caplog.records
  assert record.levelname == 'WARNING' and len(record.getMessage()) < 600
  assert notes.with_name('attempts.json.damaged').read_bytes() == data
  history.write(notes, [Attempt(3)])
  assert history.read(notes) == [Attempt(3)]


def test_a_fifo_or_a_folder_is_renamed_without_blocking(notes, caplog):
  os.mkfifo(notes)
  assert history.read(notes) == [] and not notes.exists()
  (notes / 'full').mkdir(parents=True)
  assert history.read(notes) == [] and not notes.exists()
  (notes / 'full').mkdir(parents=True)
  history.delete(notes)
  assert not notes.exists() and len(caplog.records) == 3


def test_the_size_of_a_history_is_bounded(notes):
  notes.symlink_to('/dev/zero')
  assert history.read(notes) == []
  history.write(notes, [Attempt(1)])
  assert history.read(notes) == [Attempt(1)] and not notes.is_symlink()
