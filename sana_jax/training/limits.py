"""Metrics that end a run before it diverges.

The mean of a metric over the latest steps, with the weights of an exponential
average, may not exceed a limit of the task.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

from etils import epath

from sana_jax.errors import UserError

_DECAY = 0.9  # A mean over about ten steps.
_FIRST = 10  # Steps before a limit holds.


class Limit(NamedTuple):
  """Largest mean of a metric.

  Attributes:
    key: config key of the limit.
    meaning: the metric in words.
    advice: a way to stay below it, for the error.
  """

  metric: str
  high: float
  key: str
  meaning: str
  advice: str


class Limits:
  """Callable with `(step, metrics)` after each step."""

  def __init__(
    self,
    limits: Sequence[Limit],
    last_good: Callable[[], epath.Path | None] = lambda: None,
  ):
    self._limits, self._last_good = limits, last_good
    self._means, self._steps = {}, 0

  def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Raises UserError if a mean exceeds its limit."""
    self._steps += 1
    for limit in self._limits:
      value = float(metrics.get(limit.metric, math.nan))
      if not math.isfinite(value):
        continue  # Such updates are skipped and counted.
      before = self._means.get(limit.metric, value)
      mean = self._means[limit.metric] = before + (1 - _DECAY) * (
        value - before
      )
      if self._steps >= _FIRST and mean > limit.high:
        raise self._exceeded(step, limit, mean)

  def _exceeded(self, step, limit, mean):
    good = self._last_good()
    saved = (
      'no checkpoint was saved'
      if good is None
      else f'the last checkpoint is {good}'
    )
    return UserError(
      f'Stopped at step {step}: {limit.meaning} is {mean:.3g}, over '
      f'config.{limit.key}={limit.high:g}, and the weights are about to '
      f'diverge; {saved}. {limit.advice}',
      key=limit.key,
      value=mean,
      allowed=f'at most {limit.high:g}',
    )
