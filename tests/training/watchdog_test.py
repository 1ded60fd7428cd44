"""The watchdog logs stalls and divergence, with backoff, and stops nothing."""

import itertools
import logging
import threading

import pytest

from sana_jax.training import timers
from sana_jax.training.timers import PhaseTimers
from sana_jax.training.watchdog import Divergence, is_doubled, minutes, Stall


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def with_batches(task, change):
  """The task with `change(number, batch)` for its batches, from 1 on."""
  original = task.batches

  def batches(**key):
    found, numbers = original(**key), itertools.count(1)

    class Changed(type(found)):  # Checkpoints want an iterator of grain.
      def __next__(self):
        return change(next(numbers), super().__next__())

    found.__class__ = Changed
    return found

  task.batches = batches
  return task


def stall(clock, limit_seconds=600.0):
  timed = PhaseTimers(clock)
  return timed, Stall(timed, limit_seconds, clock=clock)


def test_steps_that_end_in_time_are_no_stall(clock):
  _, found = stall(clock)
  for step in range(1, 5):
    clock.now += 599
    assert found.warning() is None
    found.progress(step)


def test_a_stall_is_logged_with_its_phase_and_stack(clock):
  timed, found = stall(clock)
  found.progress(7)
  clock.now += 60
  with timed(timers.DATA):
    clock.now += 540
    text = found.warning()
  assert text.startswith(
    'No step has ended for 10.0 minutes (step 7 was the last). The run has '
    'been waiting for data for 9.0 minutes, here:\n'
  )
  assert 'in test_a_stall_is_logged_with_its_phase_and_stack' in text


def test_the_stack_is_that_of_the_loop_and_not_of_the_caller(clock):
  _, found = stall(clock)
  clock.now += 600
  found_text = []
  thread = threading.Thread(target=lambda: found_text.append(found.warning()))
  thread.start()
  thread.join()
  assert '(none has yet)' in found_text[0]
  assert 'in test_the_stack_is_that_of_the_loop' in found_text[0]


def test_a_stall_is_logged_again_after_twice_the_time(clock):
  _, found = stall(clock, 10.0)
  logged = []
  for _ in range(100):
    clock.now += 1
    if found.warning():
      logged.append(clock.now)
  assert logged == [10, 20, 40, 80]


def test_the_end_of_a_stall_and_the_next_stall_are_logged(clock, caplog):
  _, found = stall(clock, 10.0)
  clock.now += 25
  assert found.warning()
  found.progress(3)
  assert caplog.messages == ['Step 3 has ended, after 25.0 s.']
  clock.now += 9
  assert found.warning() is None
  clock.now += 1
  assert '(step 3 was the last)' in found.warning()


@pytest.mark.long
def test_a_run_that_waits_for_data_is_logged_and_continues(toy, tmp_path):
  """The batch of step 3 arrives only after the watchdog has logged."""
  barked = threading.Event()

  class Listener(logging.Handler):
    def emit(self, record):
      text = record.getMessage()
      # In `wait` too: a busy machine may be late before that.
      if 'waiting for data' in text and 'in wait' in text:
        barked.set()

  def wait(number, batch):
    assert number < 3 or barked.wait(60)  # It has not, if this fails.
    return batch

  task, listener = with_batches(toy.Toy(), wait), Listener()
  logging.getLogger('absl').addHandler(listener)
  try:
    state = toy.run(
      tmp_path,
      task,
      num_steps=5,
      checkpoint_every_steps=9,
      ema_decay=0.0,
      watch={'stall_minutes': 1e-3, 'divergence_factor': 0.0},
    )
  finally:
    logging.getLogger('absl').removeHandler(listener)
  assert int(state.step) == 5
  assert not [t for t in threading.enumerate() if t.name == 'watchdog']


def feed(divergence, losses, **others):
  """Warnings by step, for one log line per loss."""
  found = {
    step: divergence.warnings(step, {'loss': loss, **others})
    for step, loss in enumerate(losses, 1)
  }
  return {step: text for step, text in found.items() if text}


def test_a_loss_above_its_median_on_three_lines_is_logged():
  found = feed(Divergence(5.0), [1.0, 3.0, 2.0] * 5 + [11.0, 12.0, 13.0])
  assert found == {
    18: [
      'Step 18: loss 13 is 6.5 times its median of 2, on 3 log lines in a row; '
      'the run may be diverging (watch.divergence_factor sets when this '
      'is logged).'
    ]
  }


def test_persistent_divergence_is_logged_with_backoff():
  found = feed(Divergence(5.0), [1.0] * 20 + [6.0] * 100)
  assert list(found) == [20 + n for n in (3, 6, 12, 24, 48, 96)]


def test_one_odd_batch_is_no_divergence():
  assert not feed(Divergence(5.0), [1.0] * 20 + [99.0, 99.0, 1.0] * 20)


@pytest.mark.parametrize(
  'losses',
  [
    [1.0] * 5 + [99.0] * 4,  # Too few lines to know what is usual.
    [2.0**-n for n in range(60)],  # It falls.
    [1.0] * 20 + [5.0] * 20,  # As much as is allowed.
    [-1.0] * 20 + [99.0] * 20,  # No multiple has a meaning.
    [1.0] * 20 + [float('nan'), float('inf')] * 20,  # Skipped, and counted.
  ],
)
def test_ordinary_values_are_not_logged_as_divergence(losses):
  assert not feed(Divergence(5.0), losses)


def test_a_factor_of_zero_logs_nothing():
  assert not feed(Divergence(0.0), [1.0] * 20 + [1e9] * 20)


def test_exploding_gradients_are_logged_beside_the_loss():
  divergence = Divergence(5.0)
  for step in range(20):
    divergence.warnings(step, {'loss': 1.0, 'grad_norm': 0.5})
  found = [
    divergence.warnings(step, {'loss': 9.0, 'grad_norm': 50.0})
    for step in (20, 21, 22)
  ]
  assert found[:2] == [[], []]
  assert [x.split(' is ')[0] for x in found[2]] == [
    'Step 22: loss 9',
    'Step 22: grad_norm 50',
  ]


@pytest.mark.long
def test_a_diverging_run_is_logged(toy, tmp_path, caplog):
  """Multiplies rows by 100 after the 12th batch."""
  task = with_batches(
    toy.Toy(),
    lambda number, batch: {'x': batch['x'] * (1 if number <= 12 else 100)},
  )
  toy.run(
    tmp_path,
    task,
    num_steps=18,
    log_every_steps=1,
    ema_decay=0.0,
    checkpoint_every_steps=99,
    optimizer={'name': 'adamw', 'learning_rate': 1e-6, 'clip_norm': 0.0},
    watch={'stall_minutes': 0.0, 'divergence_factor': 5.0},
  )
  logged = [x for x in caplog.messages if 'may be diverging' in x]
  # Squared errors of rows 100 times as large are 10,000 times as large.
  assert [x.split()[1:3] for x in logged] == [
    ['15:', 'loss'],
    ['15:', 'grad_norm'],
    ['18:', 'loss'],
    ['18:', 'grad_norm'],
  ]


def test_doubled_numbers_are_doubled():
  assert [n for n in range(50) if is_doubled(n, 3)] == [3, 6, 12, 24, 48]


def test_durations_are_formatted_in_seconds_or_minutes():
  assert (minutes(59.0), minutes(90.0)) == ('59.0 s', '1.5 minutes')
