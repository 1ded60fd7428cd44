"""Integration of the path from noise to data.

A sampler is one integration rule: a carry and a step. The only loop over the
time grid is here. Guidance wraps the prediction: samplers are independent of
it.
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
# (x [b ...], the path's time) -> x, such as inpainting.keep.
Constrain = Callable[[Array, Array], Array]


class Interval(NamedTuple):
  """One step from time t to s < t; `left` steps follow it."""

  t: Float[Array, '']
  s: Float[Array, '']
  index: Int[Array, '']
  left: Int[Array, '']


@runtime_checkable
class Carry(Protocol):
  """State between steps: a NamedTuple of arrays with fixed shapes."""

  @property
  def x(self) -> Array:
    """The current sample."""


@runtime_checkable
class Sampler(Protocol):
  """Integration rule; `sample` owns the loop.

  `rng` is one key per example, different in each call; None suffices for
  deterministic samplers.
  """

  def init(self, x: Array, rng: Keys | None) -> Carry:
    """Returns the carry before the first step."""

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
  constrain: Constrain | None = None,
) -> Float[Array, '*x']:
  """Integrates over the whole grid; the model is traced once.

  The sample is kept in float32 (float64 if the noise is), for any dtype of the
  network: 20 roundings to bfloat16 would be visible.

  Args:
    sampler: see `sana_jax.diffusion.samplers.make`.
    predict: called as predict(x, time, timestep) with scalar times.
    noise: unit-variance noise, at grid.times[0].
    grid: see `sana_jax.diffusion.time_grids`.
    rng: one key per example.
    constrain: applied to the sample after each step.

  Returns:
    The data at grid.times[-1].
  """
  carry, steps = begin(sampler, noise, grid, rng)
  carry = advance(sampler, predict, carry, steps, rng, constrain)
  return finish(carry, grid)


def begin(
  sampler: Sampler,
  noise: Float[Array, '*x'],
  grid: TimeGrid,
  rng: Keys | None = None,
) -> tuple[Carry, tuple[Interval, Float[Array, 'n']]]:
  """Returns the carry before the first step, and the steps for `advance`."""
  x = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
  x = x * grid.path.scale
  timesteps = jnp.asarray(grid.timesteps, x.dtype)
  return sampler.init(x, call_keys(rng, 0)), (
    _intervals(jnp.asarray(grid.times, x.dtype)),
    timesteps,
  )


def advance(
  sampler: Sampler,
  predict: Predict,
  carry: Carry,
  steps: tuple[Interval, Float[Array, 'n']],
  rng: Keys | None = None,
  constrain: Constrain | None = None,
) -> Carry:
  """Returns the carry after these steps, all or part of those from `begin`."""

  def body(carry, now):
    at, timestep = now
    prediction = predict(carry.x, at.t, timestep)
    keys = call_keys(rng, at.index + 1)
    carry = sampler.step(carry, prediction, at, keys)
    if constrain is not None:
      carry = carry._replace(x=constrain(carry.x, at.s))
    return carry, None

  return jax.lax.scan(body, carry, steps)[0]


def finish(carry: Carry, grid: TimeGrid) -> Float[Array, '*x']:
  """Returns the data of the last carry."""
  return carry.x / grid.path.scale


def predictor(velocity: Callable[[Array, Array], Array]) -> Predict:
  """Wraps the flow's velocity(x, timestep) as the `predict` of samplers."""
  return lambda x, t, timestep: Prediction(x, t, velocity(x, timestep))


def call_keys(rng, call):
  """Keys of one call of a sampler; they depend only on its index."""
  if rng is None:
    return None
  return jax.vmap(jax.random.fold_in, (0, None))(rng, call)


def _intervals(times):
  index = jnp.arange(len(times) - 1)
  return Interval(times[:-1], times[1:], index, index[::-1])
