"""Euler's method: follow the velocity straight to the next time."""

import dataclasses
from typing import NamedTuple

from sana_jax.diffusion.samplers.base import Interval
from sana_jax.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class Euler:
  """First order; diffusers' FlowMatchEulerDiscreteScheduler."""

  class Carry(NamedTuple):
    x: Float[Array, '*x']

  def init(self, x: Float[Array, '*x']) -> Carry:
    return self.Carry(x)

  def step(self, carry: Carry, v: Float[Array, '*x'], at: Interval) -> Carry:
    return self.Carry(carry.x + (at.s - at.t) * v)
