"""Timing, profiling and watchdogs of the training loop.

Nothing here changes a step or waits for a device: times are the host's, and
metrics are those that the report has already fetched.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh
import ml_collections

from sana_jax.training import limits, loss_bins, throughput, timers
from sana_jax.training.profiler import Profiler
from sana_jax.training.state import Plan
from sana_jax.training.task import Task
from sana_jax.training.timers import PhaseTimers
from sana_jax.training.watchdog import Divergence, Stall, Watchdog
from sana_jax.typing import PyTree

_CHECK_EVERY_SECONDS = 15.0


class Monitor(contextlib.ExitStack):
  """Context manager with the timers, the profiler and the watchdogs of a run.

  The loop calls `next` for its batches and enters `step` and `pause`; the
  report calls `ended` for each step and `line` for each log line.
  """

  def __init__(
    self,
    workdir: epath.Path,
    config: ml_collections.ConfigDict,
    task: Task,
    planned: Plan,
    mesh: Mesh,
    traced_steps: range | None = None,
    last_good: Callable[[], epath.Path | None] = lambda: None,
  ):
    """Timers and watchdogs; `last_good` returns the newest checkpoint."""
    super().__init__()
    self.phase = PhaseTimers()
    self.profile = Profiler(workdir / 'profile', self.phase, traced_steps)
    self._work = throughput.StepFlops(
      task.objective, task.frozen, planned, config.batch_size, self.phase
    )
    self._speed = throughput.for_mesh(self.phase, mesh, config.batch_size)
    self._bins = loss_bins.LossBins()
    self._stall_seconds = 60 * config.watch.stall_minutes
    self._stall = Stall(self.phase, self._stall_seconds)
    self._divergence = Divergence(config.watch.divergence_factor)
    self._limits = limits.Limits(task.limits, last_good)

  def __enter__(self):
    super().__enter__()
    self.enter_context(self.profile)
    if self._stall_seconds:
      self.enter_context(
        Watchdog(
          self._stall, min(self._stall_seconds / 4, _CHECK_EVERY_SECONDS)
        )
      )
    return self

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Context in which a step is dispatched and the previous one awaited."""
    with (
      self.phase(timers.STEP),
      jax.profiler.StepTraceAnnotation('train', step_num=number),
    ):
      yield

  @contextlib.contextmanager
  def pause(self, name: str, flush: Callable[[], None]) -> Iterator[None]:
    """Context of a phase outside of steps; `flush` first waits for those."""
    with self.phase(timers.STEP):
      flush()
    with self.phase(name):
      yield

  def paused(self) -> float:
    """Seconds of phases outside of steps, up to now."""
    seconds = self.phase.seconds()
    return sum(seconds[name] for name in throughput.PAUSES)

  def next(
    self,
    batches: Iterator[PyTree],
    steps: int,
    collect: Callable[[PyTree, int], PyTree] | None = None,
  ) -> PyTree:
    """The batch of the next step, after `steps` previous ones.

    `collect` makes it from that of the data, see training.task.Collect.
    """
    with self.phase(timers.DATA):
      batch = next(batches)
    if collect is not None:
      with self.phase(timers.DRAW):
        batch = collect(batch, steps)
    self._speed.start(self._work(batch, steps))
    return batch

  def ended(self, step: int, metrics: Mapping) -> None:
    """Records the end of the oldest step in flight, with its metrics.

    Raises UserError for a metric over its limit.
    """
    self._stall.progress(step)
    self._speed.end()
    if not metrics['skipped_in_a_row']:  # Otherwise they are not finite.
      self._bins.add(metrics)
    self._limits(step, metrics)

  def line(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """Additional metrics for a log line with these metrics."""
    for warning in self._divergence.warnings(step, metrics):
      if jax.process_index() == 0:  # The same on all processes.
        logging.warning('%s', warning)
    return self._bins.line() | self._speed.line()
