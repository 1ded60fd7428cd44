"""Traces of selected steps for TensorBoard's profiler, on request.

Requested by `--profile START:STOP`, or by SIGUSR1 during the run for the next
steps. A trace starts and ends on idle devices, so that it has complete steps
only; a run without a trace is not slowed down.
"""

from collections.abc import Callable
import contextlib
import pathlib
import signal
import tempfile
import threading

from absl import logging
from etils import epath
import jax

from sana_jax.training import timers
from sana_jax.training.timers import PhaseTimers

STEPS_ON_SIGNAL = 5


class Profiler:
  """Callable with the number of each step before it starts.

  A failed trace is logged and does not stop the run.
  """

  def __init__(
    self, folder: epath.Path, timed: PhaseTimers, steps: range | None = None
  ):
    """A profiler of `steps` that writes folder/step_NNNNNN."""
    self._folder, self._timed, self._steps = folder, timed, steps
    self._requested = threading.Event()
    self._open = contextlib.ExitStack()
    self._target = None  # Folder of the current trace.

  def __enter__(self):
    # Only the main thread may install handlers.
    self._before = None
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(
        signal.SIGUSR1, lambda *_: self._requested.set()
      )
    return self

  def __exit__(self, *_):
    self._end()
    if self._before is not None:
      signal.signal(signal.SIGUSR1, self._before)

  def __call__(self, step: int, flush: Callable[[], None]) -> None:
    """Starts or ends a trace; `flush` waits for the steps before this one."""
    if self._target is not None and step >= self._steps.stop:
      flush()
      self._end()
    if self._requested.is_set():
      self._requested.clear()
      if self._target is None:
        self._steps = range(step, step + STEPS_ON_SIGNAL)
    if self._target is None and self._steps is not None:
      if step in self._steps:
        flush()
        self._begin(step)
      elif step >= self._steps.stop:
        logging.warning(
          'Steps %d to %d are already done and not traced.',
          self._steps.start,
          self._steps.stop - 1,
        )
        self._steps = None

  def _begin(self, step):
    count = jax.process_count()
    part = f'_process_{jax.process_index()}' if count > 1 else ''
    with self._log_failure():
      # Written locally first: the profiler cannot write to buckets.
      self._local = pathlib.Path(
        self._open.enter_context(tempfile.TemporaryDirectory(prefix='profile'))
      )
      jax.profiler.start_trace(self._local)
      self._target = self._folder / f'step_{step:06d}{part}'

  def _end(self):
    if self._target is None:
      return
    target, self._target, self._steps = self._target, None, None
    with self._timed(timers.PROFILE), self._open, self._log_failure():
      jax.profiler.stop_trace()
      for path in self._local.rglob('*'):
        if path.is_file():
          to = target / path.relative_to(self._local).as_posix()
          to.parent.mkdir(parents=True, exist_ok=True)
          epath.Path(path).copy(to, overwrite=True)
      logging.info(
        'A profile is in %s; view it with tensorboard --logdir %s.',
        target,
        self._folder,
      )

  @contextlib.contextmanager
  def _log_failure(self):
    """Logs any failure of the profiler instead of stopping the run."""
    try:
      yield
    except Exception as error:  # noqa: BLE001
      self._steps = None
      self._open.close()
      logging.warning('Profiling failed (%s: %s).', type(error).__name__, error)
