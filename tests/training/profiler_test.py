"""Traces hold the requested steps, and never stop a run."""

import os
import signal

from etils import epath
import jax
import pytest

from sana_jax.training.profiler import Profiler, STEPS_ON_SIGNAL
from sana_jax.training.timers import PhaseTimers

SHORT = dict(checkpoint_every_steps=99, ema_decay=0.0)


@pytest.fixture
def traces(monkeypatch):
  """Records the calls of JAX's profiler instead of making them."""
  found = []

  def start(folder):
    found.append('start')
    (folder / 'plugins').mkdir()
    (folder / 'plugins/x.pb').write_text('a trace')

  monkeypatch.setattr(jax.profiler, 'start_trace', start)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: found.append('stop'))
  return found


def profiler(folder, steps=None):
  return Profiler(epath.Path(folder), PhaseTimers(), steps)


def run(profile, steps, traces):
  for step in steps:
    profile(step, lambda: traces.append('flush'))
    traces.append(step)


def test_exactly_the_requested_steps_are_traced(tmp_path, traces):
  with profiler(tmp_path, range(3, 5)) as profile:
    run(profile, range(1, 7), traces)
  # The devices are idle at both ends.
  assert traces == [1, 2, 'flush', 'start', 3, 4, 'flush', 'stop', 5, 6]
  assert (tmp_path / 'step_000003/plugins/x.pb').read_text() == 'a trace'


def test_a_trace_ends_with_the_run(tmp_path, traces):
  with profiler(tmp_path, range(2, 9)) as profile:
    run(profile, range(1, 4), traces)
  assert traces == [1, 'flush', 'start', 2, 3, 'stop']
  assert (tmp_path / 'step_000002').is_dir()


def test_steps_that_are_already_done_are_logged(tmp_path, traces, caplog):
  with profiler(tmp_path, range(3, 5)) as profile:
    run(profile, range(7, 10), traces)
  assert traces == [7, 8, 9]
  assert caplog.messages == ['Steps 3 to 4 are already done and not traced.']


def test_a_resumed_run_traces_the_remaining_steps(tmp_path, traces):
  with profiler(tmp_path, range(3, 8)) as profile:
    run(profile, range(6, 10), traces)
  assert traces == ['flush', 'start', 6, 7, 'flush', 'stop', 8, 9]


def test_a_signal_traces_the_next_steps(tmp_path, traces):
  before = signal.getsignal(signal.SIGUSR1)
  with profiler(tmp_path) as profile:
    run(profile, [1], traces)
    os.kill(os.getpid(), signal.SIGUSR1)
    run(profile, [2], traces)
    os.kill(os.getpid(), signal.SIGUSR1)  # A second signal changes nothing.
    run(profile, range(3, 10), traces)
  assert signal.getsignal(signal.SIGUSR1) is before
  assert traces.index('stop') - traces.index('start') - 2 == STEPS_ON_SIGNAL
  assert traces.count('start') == 1
  assert [p.name for p in tmp_path.iterdir()] == ['step_000002']


@pytest.mark.parametrize('broken', ['start_trace', 'stop_trace'])
def test_a_profiler_that_fails_does_not_stop_the_run(
  broken, tmp_path, traces, caplog, monkeypatch
):
  def fail(*_):
    raise RuntimeError('no profiler here')

  monkeypatch.setattr(jax.profiler, broken, fail)
  with profiler(tmp_path, range(2, 4)) as profile:
    run(profile, range(1, 7), traces)
  assert [x for x in traces if isinstance(x, int)] == [1, 2, 3, 4, 5, 6]
  assert caplog.messages == [
    'Profiling failed (RuntimeError: no profiler here).'
  ]
  assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_trace_of_a_run_can_be_opened(toy, tmp_path):
  toy.run(tmp_path, num_steps=4, traced_steps=range(2, 4), **SHORT)
  (file,) = (tmp_path / 'profile/step_000002').rglob('*.xplane.pb')
  found = jax.profiler.ProfileData.from_file(str(file))
  steps = {
    stat
    for plane in found.planes
    for line in plane.lines
    for event in line.events
    if event.name == 'train'
    for key, stat in event.stats
    if key == 'step_num'
  }
  assert steps == {2, 3}
