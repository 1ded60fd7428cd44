"""Integrating the flow dx/dt = v(x, t) from noise at t=1 to data at t=0.

A sampler is one integration rule: a carry and a step. The loop over the time
grid is here, and only here. Guidance wraps the velocity: samplers do not know
of it.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from sana_jax.diffusion.time_grids import TimeGrid
from sana_jax.typing import Array, Float, Int

# (x [b ...], timestep in [0, 1000]) -> v of x's shape, in any float dtype.
Velocity = Callable[[Array, Array], Array]


class Interval(NamedTuple):
  """One step: from time t to s < t, with `left` steps to go after it."""
  t: Float[Array, '']
  s: Float[Array, '']
  index: Int[Array, '']
  left: Int[Array, '']


@runtime_checkable
class Carry(Protocol):
  """What a step hands to the next: arrays of fixed shapes in a NamedTuple."""

  @property
  def x(self) -> Array:
    """The current sample."""


@runtime_checkable
class Sampler(Protocol):
  """One integration rule; `sample` owns the loop."""

  def init(self, x: Array) -> Carry:
    """The carry before the first step."""

  def step(self, carry: Carry, v: Array, at: Interval) -> Carry:
    """Moves the carry from at.t to at.s, given v(x, at.t) in x's dtype."""


def sample(
    sampler: Sampler,
    velocity: Velocity,
    x: Float[Array, '*x'],
    grid: TimeGrid,
) -> Float[Array, '*x']:
  """Integrates over the whole grid; the model is traced once.

  The sample is kept in float32 (float64 if it comes so), whatever the velocity
  computes in: 20 roundings to bfloat16 would show.

  Args:
    sampler: see `sana_jax.diffusion.samplers.make`.
    velocity: called as velocity(x, timestep) with a scalar timestep.
    x: noise at grid.times[0].
    grid: see `sana_jax.diffusion.time_grids`.

  Returns:
    The sample at grid.times[-1].
  """
  carry, steps = begin(sampler, x, grid)
  return advance(sampler, velocity, carry, steps).x


def begin(
    sampler: Sampler, x: Float[Array, '*x'], grid: TimeGrid
) -> tuple[Carry, tuple[Interval, Float[Array, 'n']]]:
  """The carry before the first step, and what `advance` is told of each."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  timesteps = jnp.asarray(grid.timesteps, x.dtype)
  return sampler.init(x), (
    _intervals(jnp.asarray(grid.times, x.dtype)), timesteps)


def advance(
    sampler: Sampler, velocity: Velocity, carry: Carry,
    steps: tuple[Interval, Float[Array, 'n']]
) -> Carry:
  """The carry after these steps, some of or all that `begin` gave."""
  def body(carry, now):
    at, timestep = now
    v = velocity(carry.x, timestep).astype(carry.x.dtype)
    return sampler.step(carry, v, at), None

  return jax.lax.scan(body, carry, steps)[0]


def _intervals(times):
  index = jnp.arange(len(times) - 1)
  return Interval(times[:-1], times[1:], index, index[::-1])
