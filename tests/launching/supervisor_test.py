"""A run is started again as long as that helps; its attempts are remembered."""

import dataclasses
import json
import logging

import pytest

from sana_jax.launching import history, restarts, supervisor
from sana_jax.launching.processes import Requests

AT_ONCE = restarts.Policy(wait_seconds=0)


@pytest.fixture
def run(tmp_path):
  """A Run whose attempts end as `ends` says: (newest checkpoint, code)."""

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


def test_it_is_started_until_it_is_done(run, tmp_path):
  made, left = run((4, 1), (8, 137), (12, 143), (16, 0), (16, 0))
  assert supervisor.supervise(made, Requests()) == 0
  assert left == [(16, 0)]
  assert not (tmp_path / 'attempts.json').exists()


def test_it_is_given_up_after_restarts_without_progress(run, caplog):
  made, left = run((4, 1), (4, 1), (4, 9), (8, 0))
  with caplog.at_level(logging.ERROR, 'absl'):
    assert supervisor.supervise(made, Requests()) == 9
  assert left == [(8, 0)]
  (said,) = [r.getMessage() for r in caplog.records]
  assert said.startswith('2 restarts in a row made no progress') and '4' in said


def test_a_mistake_is_not_tried_again(run):
  made, left = run((0, 2), (0, 0))
  assert supervisor.supervise(made, Requests()) == 2
  assert len(left) == 1


def test_attempts_of_a_supervisor_that_was_killed_count(run):
  made, left = run(*[(0, KeyboardInterrupt)] * 3, (4, 0))
  for _ in range(3):
    with pytest.raises(KeyboardInterrupt):
      supervisor.supervise(made, Requests())
  assert supervisor.supervise(made, Requests()) == 1
  assert left == [(4, 0)]
  # That one was over. The next launch is a new one.
  assert supervisor.supervise(made, Requests()) == 0


def test_a_request_to_stop_is_the_end_of_it_for_now(run, tmp_path):
  requests = Requests()
  made, left = run((4, 137), (8, 0))  # It did not save in time.
  start = made.start
  asked = dataclasses.replace(
    made, start=lambda n: (requests.stop.append(15), start(n))[1]
  )
  assert supervisor.supervise(asked, requests) == 137
  assert json.loads((tmp_path / 'attempts.json').read_text()) == [
    {'step': 0, 'exit_code': 137, 'asked': True}
  ]
  assert supervisor.supervise(made, Requests()) == 0
  assert not left


def test_a_request_ends_the_wait_for_a_restart(run):
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


def test_where_others_start_it_again_it_says_when_not_to(run, tmp_path):
  # As a JobSet does, which stops at exit codes 2 and 3 only.
  made, left = run((4, 1), (4, 1), (4, 1), (4, 0), once=True)
  codes = [supervisor.supervise(made, Requests()) for _ in range(4)]
  assert codes == [1, 1, 1, 3]
  assert left == [(4, 0)]
  made, _ = run((4, 2), once=True)
  assert supervisor.supervise(made, Requests()) == 2
  made, _ = run((4, 0), once=True)
  assert supervisor.supervise(made, Requests()) == 0


def test_damaged_notes_do_not_keep_a_run_from_starting(run, tmp_path, caplog):
  notes = tmp_path / 'attempts.json'
  notes.write_text('[{"step": "x", "exit_code": 1, "asked": false}]')
  made, left = run((4, 1), (8, 0))
  assert supervisor.supervise(made, Requests()) == 0
  assert not left and not notes.exists()
  assert 'attempts.json.damaged' in caplog.text


def test_notes_that_cannot_be_written_do_not_hide_how_a_run_ended(
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
  assert 'The attempts could not be noted' in caplog.text


def test_the_newest_step_is_that_of_a_whole_checkpoint(tmp_path):
  assert history.newest_step(str(tmp_path)) == 0
  for name in ('4', '12', 'damaged_20', '16.orbax-checkpoint-tmp'):
    (tmp_path / 'checkpoints' / name).mkdir(parents=True)
  assert history.newest_step(str(tmp_path)) == 12
