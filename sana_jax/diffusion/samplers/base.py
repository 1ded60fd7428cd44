"""Integrating the path from noise to data.

A sampler is one integration rule: a carry and a step. The loop over the time
grid is here, and only here. Guidance wraps the prediction: samplers do not know
of it.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from sana_jax.diffusion.paths import Prediction
from sana_jax.diffusion.time_grids import TimeGrid
from sana_jax.typing import Array, Float, Int, Keys

# (x [b ...], the path's time, the network's in [0, 1000]) -> a prediction.
Predict = Callable[[Array, Array, Array], Prediction]


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
  """One integration rule; `sample` owns the loop.

  `rng` is one key for each example, another one in each call; None where the
  caller has none, which only a sampler that draws nothing can do without.
  """

  def init(self, x: Array, rng: Keys | None) -> Carry:
    """The carry before the first step."""

  def step(
    self, carry: Carry, prediction: Prediction, at: Interval, rng: Keys | None
  ) -> Carry:
    """Moves the carry from at.t to at.s, given the prediction at carry.x."""


def sample(
  sampler: Sampler,
  predict: Predict,
  noise: Float[Array, '*x'],
  grid: TimeGrid,
  rng: Keys | None = None,
) -> Float[Array, '*x']:
  """Integrates over the whole grid; the model is traced once.

  The sample is kept in float32 (float64 if it comes so), whatever the network
  computes in: 20 roundings to bfloat16 would show.

  Args:
    sampler: see `sana_jax.diffusion.samplers.make`.
    predict: called as predict(x, time, timestep) with scalar times.
    noise: of variance 1, at grid.times[0].
    grid: see `sana_jax.diffusion.time_grids`.
    rng: one key for each example.

  Returns:
    The data at grid.times[-1].
  """
  carry, steps = begin(sampler, noise, grid, rng)
  return finish(advance(sampler, predict, carry, steps, rng), grid)


def begin(
  sampler: Sampler,
  noise: Float[Array, '*x'],
  grid: TimeGrid,
  rng: Keys | None = None,
) -> tuple[Carry, tuple[Interval, Float[Array, 'n']]]:
  """The carry before the first step, and what `advance` is told of each."""
  x = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
  x = x * grid.path.scale
  timesteps = jnp.asarray(grid.timesteps, x.dtype)
  return sampler.init(x, _of_call(rng, 0)), (
    _intervals(jnp.asarray(grid.times, x.dtype)),
    timesteps,
  )


def advance(
  sampler: Sampler,
  predict: Predict,
  carry: Carry,
  steps: tuple[Interval, Float[Array, 'n']],
  rng: Keys | None = None,
) -> Carry:
  """The carry after these steps, some of or all that `begin` gave."""

  def body(carry, now):
    at, timestep = now
    prediction = predict(carry.x, at.t, timestep)
    return sampler.step(
      carry, prediction, at, _of_call(rng, at.index + 1)
    ), None

  return jax.lax.scan(body, carry, steps)[0]


def finish(carry: Carry, grid: TimeGrid) -> Float[Array, '*x']:
  """The data that a sampler has arrived at."""
  return carry.x / grid.path.scale


def predictor(velocity: Callable[[Array, Array], Array]) -> Predict:
  """What samplers call, made of the flow's velocity(x, timestep)."""
  return lambda x, t, timestep: Prediction(x, t, velocity(x, timestep))


def _of_call(rng, call):
  """Keys of one call of a sampler, which depend on its number alone."""
  if rng is None:
    return None
  return jax.vmap(jax.random.fold_in, (0, None))(rng, call)


def _intervals(times):
  index = jnp.arange(len(times) - 1)
  return Interval(times[:-1], times[1:], index, index[::-1])
