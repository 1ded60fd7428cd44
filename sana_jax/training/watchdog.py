"""Says what it sees when a run stalls or diverges; it stops nothing.

A stall is told by a thread of its own, since the loop is what hangs: which
phase, for how long, and where in the code. It is told again after twice the
time, and so on. A loss or a gradient norm diverges when it is so many times its
running median on several log lines in a row.
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

from sana_jax.training.phases import Phases

_FRAMES = 12  # Innermost ones of the stack that are shown.
_LINES_IN_A_ROW = 3  # Before it is a divergence and not one odd batch.
_WINDOW = 50  # Log lines that the median is of, ...
_LINES_BEFORE = 10  # ... and how many there must be.


class Stall:
  """Whether no step has ended for too long; `progress` at each end."""

  def __init__(
    self,
    phases: Phases,
    limit_seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Of the thread that calls this."""
    self._phases, self._limit, self._clock = phases, limit_seconds, clock
    self._thread, self._lock = threading.get_ident(), threading.Lock()
    self._step, self._began, self._next = None, clock(), limit_seconds

  def progress(self, step: int) -> None:
    """A step has ended."""
    with self._lock:
      waited, told = self._clock() - self._began, self._next > self._limit
      self._step, self._began, self._next = step, self._clock(), self._limit
    if told:
      logging.warning('Step %d has ended, after %s.', step, minutes(waited))

  def found(self) -> str | None:
    """What there is to say now, if there is anything."""
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
      '(watch.stall_minutes is when this is told)'
    )

  def _stack(self):
    frame = sys._current_frames().get(self._thread)
    return ''.join(traceback.format_stack(frame)[-_FRAMES:])


class Watchdog:
  """Logs what a Stall finds, from a thread, while the context lasts."""

  def __init__(self, stall: Stall, look_every_seconds: float):
    self._stall, self._every = stall, look_every_seconds
    self._done = threading.Event()
    self._thread = threading.Thread(
      target=self._look, name='watchdog', daemon=True
    )

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._done.set()
    self._thread.join()

  def _look(self):
    while not self._done.wait(self._every):
      if said := self._stall.found():
        logging.warning('%s', said)


class Divergence:
  """Compares each log line's loss and gradient norm with those before it."""

  def __init__(self, factor: float):
    """`factor` times the running median is too much; 0 never is."""
    self._factor = factor
    self._before = collections.defaultdict(
      lambda: collections.deque(maxlen=_WINDOW)
    )
    self._in_a_row = collections.Counter()

  def found(self, step: int, metrics: Mapping[str, float]) -> list[str]:
    """A sentence for each that diverges, at the 3rd, 6th, 12th ... line."""
    if not self._factor:
      return []
    return [
      said
      for name in ('loss', 'grad_norm')
      if (said := self._judged(step, name, metrics.get(name)))
    ]

  def _judged(self, step, name, value):
    if value is None or not math.isfinite(value):
      return None  # Such updates are skipped and counted.
    before = self._before[name]
    usual = statistics.median(before) if len(before) >= _LINES_BEFORE else None
    if usual is None or usual <= 0 or value <= self._factor * usual:
      before.append(value)
      self._in_a_row[name] = 0
      return None
    # Not one of those that are usual: else what lasts would soon be normal.
    self._in_a_row[name] = lines = self._in_a_row[name] + 1
    if not is_doubled(lines, _LINES_IN_A_ROW):
      return None
    return (
      f'Step {step}: {name} {value:.4g} is {value / usual:.3g} times its '
      f'median of {usual:.4g}, on {lines} log lines in a row; the run '
      'may be diverging (watch.divergence_factor is when this is told).'
    )


def is_doubled(number: int, first: int) -> bool:
  """Whether it is first, 2 first, 4 first, ..."""
  times, rest = divmod(number, first)
  return rest == 0 and times > 0 and times & (times - 1) == 0


def minutes(seconds: float) -> str:
  """Time, for people."""
  return f'{seconds / 60:.1f} minutes' if seconds >= 60 else f'{seconds:.1f} s'
