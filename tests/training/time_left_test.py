"""Time left and smoothed loss: neither a pause nor one raw value decides."""

import contextlib
import logging

from etils import epath
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from sana_jax.training import monitoring, pictures, reporting, timers
from sana_jax.training.reporting import Rate, Report

pytestmark = pytest.mark.fast


class Clock:
  """Seconds that pass only when a test adds them."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  found = Clock()
  monkeypatch.setattr(reporting.time, 'monotonic', found)
  return found


def test_a_pause_is_no_part_of_the_time_left(clock):
  paused = [0.0]
  rate = Rate(0, 100, 4, lambda: paused[0])
  for step in range(1, 11):
    clock.now += 2.0
    rate.tick(step)
  assert rate.seconds_left == pytest.approx(180)
  clock.now += 62.0  # A checkpoint of a minute, then a step.
  paused[0] += 60.0
  rate.tick(11)
  assert rate.seconds_left == pytest.approx(178)
  assert rate.images_per_second == pytest.approx(4 / 62, abs=1e-3)


def test_a_pause_before_the_first_measurement_does_not_count(clock):
  paused = [50.0]
  rate = Rate(0, 10, 4, lambda: paused[0])
  for step in (1, 2):
    clock.now += 0.5
    rate.tick(step)
  assert rate.seconds_left == pytest.approx(4)


class Watch(monitoring.Monitor):
  """The timers of a run alone."""

  def __init__(self):
    contextlib.ExitStack.__init__(self)
    self.phase = timers.PhaseTimers(lambda: reporting.time.monotonic())

  def ended(self, step, metrics):
    pass

  def line(self, step, metrics):
    return {}


@pytest.mark.parametrize('phase', [timers.SAVE, timers.DRAW, timers.PROFILE])
def test_the_log_has_the_time_left_without_pauses(
  tmp_path, clock, caplog, phase
):
  config = ml_collections.ConfigDict(
    dict(
      num_steps=100, batch_size=4, log_every_steps=50, max_skipped_in_a_row=2
    )
  )
  metrics = {
    'loss': jnp.float32(1.0),
    'skipped': jnp.int32(0),
    'skipped_in_a_row': jnp.int32(0),
  }
  watch = Watch()
  with (
    caplog.at_level(logging.INFO, 'absl'),
    Report(
      epath.Path(tmp_path), config, lambda step: step / 10, 0, watch
    ) as report,
  ):
    for step in range(1, 10):
      clock.now += 2.0
      report(step, metrics)
    clock.now += 2.0
    with watch.pause(phase, report.flush):
      clock.now += 600.0
    clock.now += 2.0
    report(10, metrics)
    report.flush()
  logged = [x for x in caplog.messages if x.startswith('step 10/100')]
  assert len(logged) == 1 and logged[0].endswith(', 03:00 left')


@pytest.mark.parametrize('count', [5, 30, 200])
def test_the_last_value_of_the_curve_is_no_raw_value(count):
  losses = np.full(count, 1.0)
  losses[-1] = 9.0
  assert pictures.smooth(losses)[-1] < 6.0  # It was 9.
  losses[-1], losses[0] = 1.0, 9.0
  assert pictures.smooth(losses)[0] < 6.0


def test_the_ends_of_the_curve_are_as_smooth_as_a_line_allows():
  noise = np.random.default_rng(0).normal(size=(200, 1000))
  ends = np.array([pictures.smooth(x)[[0, -1]] for x in noise])
  # A line through n points has a variance of nearly 4 / n at its end.
  assert ends.std() < 1.2 * np.sqrt(4 / 51)


def test_a_line_stays_where_it_is_also_with_few_points():
  for count in (2, 3, 4, 5, 39, 41):
    line = np.linspace(5, 1, count)
    np.testing.assert_allclose(pictures.smooth(line), line, rtol=1e-12)


def test_the_curve_stays_within_the_losses():
  losses = 10.0 ** -np.arange(12.0)  # A line's end would be below 0.
  found = pictures.smooth(losses)
  assert found.min() >= losses.min() and found.max() <= losses.max()
