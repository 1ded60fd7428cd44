"""Notes of attempts: read back, or set aside with a warning."""

import os

import pytest

from sana_jax.launching import history
from sana_jax.launching.restarts import Attempt

GOOD = '{"step": 3, "exit_code": null, "asked": true}'
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
      '{"step": "3", "exit_code": 1, "asked": true}',
      '{"step": true, "exit_code": 1, "asked": true}',
      '{"step": 3.5, "exit_code": 1, "asked": true}',
      '{"step": NaN, "exit_code": 1, "asked": true}',
      '{"step": -1, "exit_code": 1, "asked": true}',
      f'{{"step": {"9" * 4000}, "exit_code": 1, "asked": true}}',
      '{"step": 3, "exit_code": "1", "asked": true}',
      '{"step": 3, "exit_code": false, "asked": true}',
      '{"step": 3, "exit_code": 256, "asked": true}',
      '{"step": 3, "exit_code": -9, "asked": true}',
      '{"step": 3, "exit_code": 1e999, "asked": true}',
      '{"step": 3, "exit_code": 1, "asked": 1}',
      '{"step": 3, "exit_code": 1, "asked": null}',
      '{"step": 3, "exit_code": 1, "asked": true, "more": 0}',
      '{"step": 3, "exit_code": 1}',
    )
  ),
]


@pytest.fixture
def notes(tmp_path):
  return tmp_path / 'attempts.json'


def test_attempts_are_read_as_they_were_written(notes):
  assert history.read(notes) == []
  attempts = [Attempt(0, 1), Attempt(2**40, None, True), Attempt(3, 255)]
  history.write(notes, attempts)
  assert history.read(notes) == attempts


@pytest.mark.parametrize('data', DAMAGED, ids=lambda data: repr(data[:60]))
def test_damaged_notes_are_set_aside(data, notes, caplog):
  notes.write_bytes(data)
  assert history.read(notes) == []
  (record,) = caplog.records
  assert record.levelname == 'WARNING' and len(record.getMessage()) < 600
  assert notes.with_name('attempts.json.damaged').read_bytes() == data
  history.write(notes, [Attempt(3)])
  assert history.read(notes) == [Attempt(3)]


def test_what_is_no_file_is_set_aside_without_waiting_for_it(notes, caplog):
  os.mkfifo(notes)
  assert history.read(notes) == [] and not notes.exists()
  (notes / 'full').mkdir(parents=True)
  assert history.read(notes) == [] and not notes.exists()
  (notes / 'full').mkdir(parents=True)
  history.forget(notes)
  assert not notes.exists() and len(caplog.records) == 3


def test_notes_that_never_end_are_not_read_whole(notes):
  notes.symlink_to('/dev/zero')
  assert history.read(notes) == []
  history.write(notes, [Attempt(1)])
  assert history.read(notes) == [Attempt(1)] and not notes.is_symlink()
