"""Warnings about a run that stalls or diverges; the run is not stopped.

A stall is logged by a separate thread, since the loop itself hangs: the phase,
its duration and the stack. It is logged again after twice the time, and so on.
A loss or a gradient norm diverges when it exceeds a multiple of its running
median on several consecutive log lines.
"""

import collections
from collections.abc import Callable, Mapping
import math
import statistics
import sys
import threading
import time
import traceback

from absl import logging

from sana_jax.printable import counted
from sana_jax.training.timers import PhaseTimers

_FRAMES = 12  # Innermost frames of the stack that are logged.
_LINES_IN_A_ROW = 3  # Fewer count as an odd batch, not as divergence.
_WINDOW = 50  # Log lines in the running median, ...
_LINES_BEFORE = 10  # ... and the minimum number of them.


class Stall:
  """Detects that no step has ended for too long.

  `progress` is called at the end of each step.
  """

  def __init__(
    self,
    phases: PhaseTimers,
    limit_seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Watches the thread that calls this."""
    self._phases, self._limit, self._clock = phases, limit_seconds, clock
    self._thread, self._lock = threading.get_ident(), threading.Lock()
    self._step, self._began, self._next = None, clock(), limit_seconds

  def progress(self, step: int) -> None:
    """Records the end of a step."""
    with self._lock:
      waited, logged = self._clock() - self._began, self._next > self._limit
      self._step, self._began, self._next = step, self._clock(), self._limit
    if logged:
      logging.warning('Step %d has ended, after %s.', step, minutes(waited))

  def warning(self) -> str | None:
    """The warning that is due now, if any."""
    with self._lock:
      waited, step = self._clock() - self._began, self._step
      if waited < self._next:
        return None
      while self._next <= waited:
        self._next *= 2
    last = 'none has yet' if step is None else f'step {step} was the last'
    phase, seconds = self._phases.now()
    return (
      f'No step has ended for {minutes(waited)} ({last}). The run has '
      f'been {phase} for {minutes(seconds)}, here:\n{self._stack()}'
      '(watch.stall_minutes sets when this is logged)'
    )

  def _stack(self):
    frame = sys._current_frames().get(self._thread)
    return ''.join(traceback.format_stack(frame)[-_FRAMES:])


class Watchdog:
  """Logs the warnings of a Stall from a thread, while the context lasts."""

  def __init__(self, stall: Stall, check_every_seconds: float):
    self._stall, self._every = stall, check_every_seconds
    self._done = threading.Event()
    self._thread = threading.Thread(
      target=self._run, name='watchdog', daemon=True
    )

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._done.set()
    self._thread.join()

  def _run(self):
    while not self._done.wait(self._every):
      if warning := self._stall.warning():
        logging.warning('%s', warning)


class Divergence:
  """Compares each log line's loss and gradient norm with those before it."""

  def __init__(self, factor: float):
    """Values over `factor` times the running median diverge; 0 disables it."""
    self._factor = factor
    self._before = collections.defaultdict(
      lambda: collections.deque(maxlen=_WINDOW)
    )
    self._in_a_row = collections.Counter()

  def warnings(self, step: int, metrics: Mapping[str, float]) -> list[str]:
    """A warning for each diverging metric, at its 3rd, 6th, 12th ... line."""
    if not self._factor:
      return []
    return [
      warning
      for name in ('loss', 'grad_norm')
      if (warning := self._warning(step, name, metrics.get(name)))
    ]

  def _warning(self, step, name, value):
    if value is None or not math.isfinite(value):
      return None  # Such updates are skipped and counted.
    before = self._before[name]
    usual = statistics.median(before) if len(before) >= _LINES_BEFORE else None
    if usual is None or usual <= 0 or value <= self._factor * usual:
      before.append(value)
      self._in_a_row[name] = 0
      return None
    # Excluded from the median, which would otherwise adapt to the divergence.
    self._in_a_row[name] = lines = self._in_a_row[name] + 1
    if not is_doubled(lines, _LINES_IN_A_ROW):
      return None
    return (
      f'Step {step}: {name} {value:.4g} is {value / usual:.3g} times its '
      f'median of {usual:.4g}, on {counted(lines, "log line")} in a row; the '
      'run may be diverging (watch.divergence_factor sets when this is logged).'
    )


def is_doubled(number: int, first: int) -> bool:
  """Whether `number` is `first` times a power of two."""
  times, rest = divmod(number, first)
  return rest == 0 and times > 0 and times & (times - 1) == 0


def minutes(seconds: float) -> str:
  """Duration as text, in minutes or seconds."""
  return f'{seconds / 60:.1f} minutes' if seconds >= 60 else f'{seconds:.1f} s'
