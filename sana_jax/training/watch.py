"""All that looks at a run while it trains, in one place for the loop.

Nothing here changes a step or waits for a device: times are the host's, and
metrics are those that the report has fetched anyway.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh
import ml_collections

from sana_jax.training import levels, phases, throughput
from sana_jax.training.phases import Phases
from sana_jax.training.profiler import Profiler
from sana_jax.training.state import Plan
from sana_jax.training.task import Task
from sana_jax.training.watchdog import Divergence, Stall, Watchdog
from sana_jax.typing import PyTree

_LOOK_EVERY_SECONDS = 15.0


class Watch(contextlib.ExitStack):
  """A context; `phase(name)` and `profile(step, flush)` are its parts' calls.

  The loop takes its batches by `next` and goes through `step` and `pause`; the
  report calls `ended` for each step and `line` for each line of the log.
  """

  def __init__(
    self,
    workdir: epath.Path,
    config: ml_collections.ConfigDict,
    task: Task,
    planned: Plan,
    mesh: Mesh,
    traced_steps: range | None = None,
  ):
    super().__init__()
    self.phase = Phases()
    self.profile = Profiler(workdir / 'profile', self.phase, traced_steps)
    self._work = throughput.Work(
      task.objective, task.frozen, planned, config.batch_size, self.phase
    )
    self._speed = throughput.of_run(self.phase, mesh, config.batch_size)
    self._levels = levels.Accumulated()
    self._stall_seconds = 60 * config.watch.stall_minutes
    self._stall = Stall(self.phase, self._stall_seconds)
    self._divergence = Divergence(config.watch.divergence_factor)

  def __enter__(self):
    super().__enter__()
    self.enter_context(self.profile)
    if self._stall_seconds:
      self.enter_context(
        Watchdog(self._stall, min(self._stall_seconds / 4, _LOOK_EVERY_SECONDS))
      )
    return self

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """While a step is handed over, and the one before it awaited."""
    with (
      self.phase(phases.STEP),
      jax.profiler.StepTraceAnnotation('train', step_num=number),
    ):
      yield

  @contextlib.contextmanager
  def pause(self, name: str, flush: Callable[[], None]) -> Iterator[None]:
    """A phase that is no step's; `flush` waits for those under way first."""
    with self.phase(phases.STEP):
      flush()
    with self.phase(name):
      yield

  def next(self, batches: Iterator[PyTree], steps: int) -> PyTree:
    """The batch of a step that is handed over next, after so many `steps`."""
    with self.phase(phases.DATA):
      batch = next(batches)
    self._speed.start(self._work(batch, steps))
    return batch

  def ended(self, step: int, metrics: Mapping) -> None:
    """The oldest step that was handed over has ended, with these metrics."""
    self._stall.progress(step)
    self._speed.end()
    if not metrics['skipped_in_a_row']:  # Else they are no numbers.
      self._levels.add(metrics)

  def line(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """What to add to a log line with these metrics."""
    for said in self._divergence.found(step, metrics):
      if jax.process_index() == 0:  # All see the same.
        logging.warning('%s', said)
    return self._levels.line() | self._speed.line()
