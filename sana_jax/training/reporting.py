"""Training metrics: progress bar, JSONL, dashboards.

`Report` queues each step's metrics and fetches them one step later, when they
are ready: the host neither waits for the newest step nor has more than one in
flight (XLA's CPU collectives hang with dozens).
"""

from collections.abc import Callable, Mapping
import contextlib
import math
import sys
import time
from typing import Any

from absl import logging
from clu import parameter_overview
from etils import epath
import jax
import ml_collections
import numpy as np
from PIL import Image
from tqdm import tqdm

from sana_jax.errors import UserError
from sana_jax.printable import counted
from sana_jax.sharding.mesh import local_mesh
from sana_jax.training import boards, loss_bins
from sana_jax.training.jsonl_log import JsonlLog
from sana_jax.training.monitoring import Monitor
from sana_jax.typing import PyTree

_SECONDS_BETWEEN_LINES = 5.0  # In the plain log, without a terminal.
_RATES = 1024  # Learning rates that are computed at once.


class Report:
  """Callable with `(step, metrics)` after each step; `sync` before a save."""

  def __init__(
    self,
    workdir: epath.Path,
    config: ml_collections.ConfigDict,
    schedule: Callable[[int], Any],
    start: int,
    watch: Monitor | None = None,
    last_good: Callable[[], epath.Path | None] = lambda: None,
    may_write: Callable[[], bool] = lambda: True,
  ):
    """Opens metrics.jsonl and the dashboards on process 0.

    Args:
      last_good: returns the newest checkpoint, for error messages.
      may_write: whether this run still holds the workdir.
    """
    self._config, self._schedule = config, schedule
    self._watch, self._last_good = watch, last_good
    self._primary = jax.process_index() == 0
    self._lines = self._boards = self._pending = None
    self._latest = {}
    self._rates = {}  # The current block of _RATES learning rates.
    self._rate = Rate(
      start,
      config.num_steps,
      config.batch_size,
      watch.paused if watch else lambda: 0.0,
    )
    self._bar = tqdm(
      total=config.num_steps,
      initial=start,
      dynamic_ncols=True,
      bar_format='{n_fmt}/{total_fmt} {bar} {elapsed}{postfix}',
      disable=not (self._primary and sys.stderr.isatty()),
    )
    if self._primary:
      self._lines = JsonlLog(
        workdir / 'metrics.jsonl', start, may_write=may_write
      )
      self._rate.before = self._lines.seconds
      self._boards = boards.opened(workdir, config)

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    try:
      if kind is None:
        self.sync()
    finally:
      self._bar.close()
      if self._lines is not None:
        self._lines.close()
      if self._boards is not None:
        self._boards.close()

  def __call__(self, step: int, metrics: PyTree) -> None:
    """Reports the previous step and queues this step's metrics."""
    self.flush()
    self._pending = step, metrics

  def picture(self, step: int, image: Image.Image) -> None:
    """Writes a grid of samples to the dashboards."""
    if self._boards is not None:
      self._boards.write_image(step, image.convert('RGB'))

  def flush(self) -> None:
    """Waits for the queued metrics and reports them.

    Raises UserError after too many consecutive updates that were not finite.
    """
    if self._pending is None:
      return
    (step, metrics), self._pending = self._pending, None
    metrics = jax.device_get(metrics)
    if self._watch:
      self._watch.ended(step, metrics)
    metrics = loss_bins.flat(metrics)
    # Players that take turns have metrics of their own.
    self._latest = {**self._latest, **metrics}
    self._rate.tick(step)
    if self._primary:
      self._show(step, metrics)
    if step % self._config.log_every_steps == 0 or self._is_last(step):
      # On all processes: each starts a new interval.
      seen = self._watch.line(step, metrics) if self._watch else {}
      if self._primary:
        self._write(step, {**self._latest, **seen})
    limit = self._config.max_skipped_in_a_row
    if (skipped := metrics['skipped_in_a_row']) >= limit:
      raise UserError(
        f'The last {counted(int(skipped), "update")}, up to step {step}, '
        f'{"was" if skipped == 1 else "were"} not finite (loss '
        f'{metrics["loss"]}) and skipped; '
        f'{self._last_good_text()}. Check the data, raise '
        'max_skipped_in_a_row, or start a new run from its `sana-jax export`: '
        'a new --workdir, with --config.init_from and a lower '
        'optimizer.learning_rate.',
        key='max_skipped_in_a_row',
        value=skipped,
        allowed=f'less than {limit}',
      )

  def sync(self) -> None:
    """Flushes, and waits until the lines of all these steps are written.

    Raises UserError if writing fails.
    """
    self.flush()
    if self._lines is not None:
      self._lines.sync()

  def _last_good_text(self) -> str:
    found = self._last_good()
    return (
      'no checkpoint was saved'
      if found is None
      else f'the last good checkpoint is {found}'
    )

  def _is_last(self, step: int) -> bool:
    return step == self._config.num_steps

  def _show(self, step: int, metrics: Mapping[str, float]) -> None:
    """Updates the bar; without a terminal, logs a line every few seconds."""
    rate = self._rate
    text = f'loss {metrics["loss"]:.4g}, {rate.images_per_second:.3g} images/s'
    if metrics['skipped']:
      text += f', {metrics["skipped"]} skipped'
    left = f'{tqdm.format_interval(rate.seconds_left)} left'
    if not self._bar.disable:
      self._bar.set_postfix_str(f'{left}, {text}', refresh=False)
      self._bar.update(1)
    elif (rate.is_known and rate.line_is_due()) or self._is_last(step):
      logging.info(
        'step %d/%d  %s, %s',
        step,
        self._config.num_steps,
        text,
        left,
      )

  def _write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes a line to metrics.jsonl, and the same to the dashboards."""
    # Skipped updates do not advance the optimizer's count.
    before = step - 1 - metrics['skipped'] + (metrics['skipped_in_a_row'] > 0)
    line = {
      'step': step,
      **metrics,
      'learning_rate': self._learning_rate(before),
      'images_per_second': self._rate.images_per_second,
      'seconds': round(self._rate.seconds, 3),
    }
    # JSON has no NaN.
    line = {k: v if math.isfinite(v) else None for k, v in line.items()}
    self._lines.append(line)
    if self._boards is not None:
      del line['step']
      self._boards.write_scalars(
        step, {k: v for k, v in line.items() if v is not None}
      )

  def _learning_rate(self, update: int) -> float:
    """Learning rate of an update, computed in blocks.

    Each computation waits for the step in flight.
    """
    first = update - update % _RATES
    if first not in self._rates:
      updates = np.arange(first, first + _RATES, dtype=np.int32)
      with jax.set_mesh(local_mesh()):  # Only this process computes it.
        self._rates = {first: np.asarray(jax.vmap(self._schedule)(updates))}
    return float(self._rates[first][update - first])


class Rate:
  """Speed over the last second or so, elapsed and remaining time.

  Pauses, such as a checkpoint, lower the speed and not the remaining time.
  """

  def __init__(
    self,
    start: int,
    num_steps: int,
    batch_size: int,
    paused: Callable[[], float] = lambda: 0.0,
  ):
    """A rate from step `start`; `paused` returns the seconds of all pauses."""
    self._num_steps, self._batch_size = num_steps, batch_size
    self._start = self._line = time.monotonic()
    self._paused = paused
    # (seconds, seconds of pauses, step) at the start of the measurement.
    self._since = None
    self._step = start
    self._steps_per_second = self._seconds_per_step = 0.0
    self._settled = False
    self.before = 0.0  # Seconds of training before this restart.

  def tick(self, step: int) -> None:
    """Records the end of a step; the first, which compiles, is not timed."""
    self._step = step
    now = time.monotonic(), self._paused(), step
    if self._since is None:
      self._since = now
      return
    elapsed, paused, steps = (a - b for a, b in zip(now, self._since))
    if elapsed > 1 or not self._settled:
      self._steps_per_second = steps / max(elapsed, 1e-9)
      self._seconds_per_step = max(elapsed - paused, 0.0) / steps
    if elapsed > 1:
      self._since, self._settled = now, True

  def line_is_due(self) -> bool:
    if time.monotonic() - self._line < _SECONDS_BETWEEN_LINES:
      return False
    self._line = time.monotonic()
    return True

  @property
  def is_known(self) -> bool:
    """Whether two steps are done, as the first one compiles."""
    return self._steps_per_second > 0

  @property
  def images_per_second(self) -> float:
    return round(self._steps_per_second * self._batch_size, 3)

  @property
  def seconds(self) -> float:
    return self.before + time.monotonic() - self._start

  @property
  def seconds_left(self) -> float:
    return (self._num_steps - self._step) * self._seconds_per_step


@contextlib.contextmanager
def silence(package: str):
  """Removes a package's lines from absl's log.

  Orbax logs 20 per save, and raises the errors that it logs.
  """
  keep = lambda record: f'/{package}/' not in record.pathname
  logger = logging.get_absl_logger()
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)


def log_overview(params: PyTree) -> None:
  """Logs the parameter count by part of the model, on process 0."""
  if jax.process_index() == 0:
    count = parameter_overview.count_parameters
    parts = {name: count({name: part}) for name, part in params.items()}
    logging.info(
      '%s parameters: %s.',
      f'{count(params):,}',
      ', '.join(
        f'{name} {parts[name]:,}'
        for name in sorted(parts, key=parts.get, reverse=True)
      ),
    )
