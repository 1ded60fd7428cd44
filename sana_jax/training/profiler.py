"""Traces of some steps for TensorBoard's profiler, when somebody asks.

Before a run by `--profile START:STOP`, while it runs by SIGUSR1, which traces
the next steps. A trace begins and ends on an idle device, so that it has whole
steps and nothing else; a run without one is not slowed down.
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

from sana_jax.training import phases
from sana_jax.training.phases import Phases

STEPS_ON_SIGNAL = 5


class Profiler:
  """Call it with the number of each step before that step begins.

  A trace that fails is told and does not stop the run.
  """

  def __init__(
    self, folder: epath.Path, timed: Phases, steps: range | None = None
  ):
    """Writes folder/step_NNNNNN; `steps` are those to trace."""
    self._folder, self._timed, self._steps = folder, timed, steps
    self._asked = threading.Event()
    self._open = contextlib.ExitStack()
    self._target = None  # Of the trace that is being taken.

  def __enter__(self):
    # Python lets only the main thread have handlers.
    self._before = None
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGUSR1, lambda *_: self._asked.set())
    return self

  def __exit__(self, *_):
    self._end()
    if self._before is not None:
      signal.signal(signal.SIGUSR1, self._before)

  def __call__(self, step: int, flush: Callable[[], None]) -> None:
    """`flush` waits for the steps before this one."""
    if self._target is not None and step >= self._steps.stop:
      flush()
      self._end()
    if self._asked.is_set():
      self._asked.clear()
      if self._target is None:
        self._steps = range(step, step + STEPS_ON_SIGNAL)
    if self._target is None and self._steps is not None:
      if step in self._steps:
        flush()
        self._begin(step)
      elif step >= self._steps.stop:
        logging.warning(
          'Steps %d to %d are done already and not traced.',
          self._steps.start,
          self._steps.stop - 1,
        )
        self._steps = None

  def _begin(self, step):
    count = jax.process_count()
    part = f'_process_{jax.process_index()}' if count > 1 else ''
    with self._telling():
      # Written here first: the profiler knows no buckets.
      self._local = pathlib.Path(
        self._open.enter_context(tempfile.TemporaryDirectory(prefix='profile'))
      )
      jax.profiler.start_trace(self._local)
      self._target = self._folder / f'step_{step:06d}{part}'

  def _end(self):
    if self._target is None:
      return
    target, self._target, self._steps = self._target, None, None
    with self._timed(phases.PROFILE), self._open, self._telling():
      jax.profiler.stop_trace()
      for path in self._local.rglob('*'):
        if path.is_file():
          to = target / path.relative_to(self._local).as_posix()
          to.parent.mkdir(parents=True, exist_ok=True)
          epath.Path(path).copy(to, overwrite=True)
      logging.info(
        'A profile is in %s; see it with tensorboard --logdir %s.',
        target,
        self._folder,
      )

  @contextlib.contextmanager
  def _telling(self):
    """Whatever a profiler trips over is no reason to stop training."""
    try:
      yield
    except Exception as error:  # noqa: BLE001
      self._steps = None
      self._open.close()
      logging.warning(
        'The profile could not be taken (%s: %s).', type(error).__name__, error
      )
