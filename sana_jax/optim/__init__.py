"""Optimizers, learning-rate schedules, and the EMA of the parameters."""

from sana_jax.optim import ema
from sana_jax.optim.came import came, CameState, scale_by_came
from sana_jax.optim.came_8bit import came_8bit
from sana_jax.optim.factory import make, schedule

__all__ = [
  'came',
  'came_8bit',
  'CameState',
  'ema',
  'make',
  'scale_by_came',
  'schedule',
]
