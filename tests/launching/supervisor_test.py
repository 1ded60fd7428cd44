"""A run is restarted while it makes progress; its attempts are recorded."""

import dataclasses
import json
import logging

import pytest

from sana_jax.launching import history, restarts, supervisor
from sana_jax.launching.processes import Requests

pytestmark = pytest.mark.fast

AT_ONCE = restarts.Policy(wait_seconds=0)


@pytest.fixture
def run(tmp_path):
  """A Run whose attempts end with `ends`: (newest checkpoint, code)."""

  def make(*ends, once=False):
    left = list(ends)

    def start(number):
      step, code = left.pop(0)
      (tmp_path / f'checkpoints/{step}').mkdir(parents=True, exist_ok=True)
      if isinstance(code, type):
        raise code
      return code

    made = supervisor.Run(
      start, str(tmp_path), tmp_path / 'attempts.json', AT_ONCE, once
    )
    return made, left

  return make


def test_a_run_is_restarted_until_it_is_done(run, tmp_path):
  made, left = run((4, 1), (8, 137), (12, 143), (16, 0), (16, 0))
  assert supervisor.supervise(made, Requests()) == 0
  assert left == [(16, 0)]
  assert not (tmp_path / 'attempts.json').exists()


def test_restarts_without_progress_are_limited(run, caplog):
  made, left = run((4, 1), (4, 1), (4, 9), (8, 0))
  with caplog.at_level(logging.ERROR, 'absl'):
    assert supervisor.supervise(made, Requests()) == 9
  assert left == [(8, 0)]
  (message,) = [r.getMessage() for r in caplog.records]
  assert (
    message.startswith('2 restarts in a row made no progress')
    and '4' in message
  )


def test_a_user_error_is_not_retried(run):
  made, left = run((0, 2), (0, 0))
  assert supervisor.supervise(made, Requests()) == 2
  assert len(left) == 1


def test_attempts_of_a_killed_supervisor_count(run):
  made, left = run(*[(0, KeyboardInterrupt)] * 3, (4, 0))
  for _ in range(3):
    with pytest.raises(KeyboardInterrupt):
      supervisor.supervise(made, Requests())
  assert supervisor.supervise(made, Requests()) == 1
  assert left == [(4, 0)]
  # That one was over. The next launch is a new one.
  assert supervisor.supervise(made, Requests()) == 0


def test_a_stop_request_ends_the_supervisor(run, tmp_path):
  requests = Requests()
  made, left = run((4, 137), (8, 0))  # It did not save in time.
  start = made.start
  stopping = dataclasses.replace(
    made, start=lambda n: (requests.stop.append(15), start(n))[1]
  )
  assert supervisor.supervise(stopping, requests) == 137
  assert json.loads((tmp_path / 'attempts.json').read_text()) == [
    {'step': 0, 'exit_code': 137, 'stop_requested': True}
  ]
  assert supervisor.supervise(made, Requests()) == 0
  assert not left


def test_a_stop_request_ends_the_delay_before_a_restart(run):
  made, left = run((4, 1), (8, 0))
  requests = Requests()
  slow = dataclasses.replace(made, policy=restarts.Policy(wait_seconds=600))
  start = slow.start

  def then_stop(number):
    code = start(number)
    requests.sleep = lambda seconds: requests.stop.append(15)
    return code

  slow = dataclasses.replace(slow, start=then_stop)
  assert supervisor.supervise(slow, requests) == 143
  assert left == [(8, 0)]


def test_exit_code_3_ends_restarts_by_a_scheduler(run, tmp_path):
  # As a JobSet does, which stops at exit codes 2 and 3 only.
  made, left = run((4, 1), (4, 1), (4, 1), (4, 0), once=True)
  codes = [supervisor.supervise(made, Requests()) for _ in range(4)]
  assert codes == [1, 1, 1, 3]
  assert left == [(4, 0)]
  made, _ = run((4, 2), once=True)
  assert supervisor.supervise(made, Requests()) == 2
  made, _ = run((4, 0), once=True)
  assert supervisor.supervise(made, Requests()) == 0


def test_a_damaged_history_does_not_prevent_a_run(run, tmp_path, caplog):
  notes = tmp_path / 'attempts.json'
  notes.write_text('[{"step": "x", "exit_code": 1, "stop_requested": false}]')
  made, left = run((4, 1), (8, 0))
  assert supervisor.supervise(made, Requests()) == 0
  assert not left and not notes.exists()
  assert 'attempts.json.damaged' in caplog.text


def test_a_failed_write_of_the_history_keeps_the_exit_code(
  run, tmp_path, caplog
):
  notes = tmp_path / 'attempts.json'
  made, _ = run((4, 9), once=True)

  def start(number):
    notes.unlink()
    (notes / 'in the way').mkdir(parents=True)
    return made.start(number)

  blocked = dataclasses.replace(made, start=start)
  assert supervisor.supervise(blocked, Requests()) == 9
  assert 'The attempts could not be recorded' in caplog.text


def test_the_newest_step_is_that_of_a_complete_checkpoint(tmp_path):
  assert history.newest_step(str(tmp_path)) == 0
  for name in ('4', '12', 'damaged_20', '16.orbax-checkpoint-tmp'):
    (tmp_path / 'checkpoints' / name).mkdir(parents=True)
  assert history.newest_step(str(tmp_path)) == 12
