"""Timers of the phases of the training loop.

The loop names its phases; the report reads the seconds of each, and the
watchdog's thread reads the current one.
"""

import collections
from collections.abc import Callable, Iterator
import contextlib
import threading
import time

DATA, STEP, COMPILE = 'waiting for data', 'in the step', 'compiling the step'
SAVE, DRAW = 'saving a checkpoint', 'drawing pictures'
PROFILE = 'writing a profile'
ELSEWHERE = 'in the loop itself'


class PhaseTimers:
  """Callable that times a named phase as a context; inner ones suspend outer.

  The seconds of all phases add up to at most the elapsed time.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock, self._lock = clock, threading.Lock()
    self._stack = []  # Names of phases, outermost first.
    self._since = clock()  # When the innermost one started or resumed.
    self._seconds = collections.defaultdict(float)

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    self._change(lambda: self._stack.append(name))
    try:
      yield
    finally:
      self._change(self._stack.pop)

  def _change(self, change):
    with self._lock:
      now = self._clock()
      if self._stack:
        self._seconds[self._stack[-1]] += now - self._since
      self._since = now
      change()

  def now(self) -> tuple[str, float]:
    """The innermost phase, and the seconds since it started."""
    with self._lock:
      name = self._stack[-1] if self._stack else ELSEWHERE
      return name, self._clock() - self._since

  def seconds(self) -> dict[str, float]:
    """Total seconds by phase up to now; 0 for unused phases."""
    with self._lock:
      found = self._seconds.copy()
      if self._stack:
        found[self._stack[-1]] += self._clock() - self._since
      return found
