"""Euler's method: one step along the velocity to the next time."""

import dataclasses
from typing import NamedTuple

from sana_jax.diffusion.paths import Prediction
from sana_jax.diffusion.samplers.base import Interval
from sana_jax.typing import Array, Float, Keys


@dataclasses.dataclass(frozen=True)
class Euler:
  """First-order sampler; diffusers' FlowMatchEulerDiscreteScheduler."""

  class Carry(NamedTuple):
    x: Float[Array, '*x']

  def init(self, x: Float[Array, '*x'], rng: Keys | None = None) -> Carry:
    return self.Carry(x)

  def step(
    self,
    carry: Carry,
    prediction: Prediction,
    at: Interval,
    rng: Keys | None = None,
  ) -> Carry:
    return self.Carry(carry.x + (at.s - at.t) * prediction.velocity())
