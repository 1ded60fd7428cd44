"""Samplers against the closed-form flow of Gaussian data, and NVlabs'."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion import samplers, time_grids
from sana_jax.diffusion.samplers.base import Interval
from sana_jax.errors import UserError

MEAN, STD = 0.7, 0.3
NOISE = np.linspace(-2, 2, 5)
NAMES = ('euler', 'dpm++2m', 'dpm++2m-heun', 'dpm++3m')
EVERY = [samplers.make(name) for name in NAMES] + [samplers.DpmSolver(order=1)]

# End values of NVlabs/Sana's sampler for TOY from [1, -0.5]; (steps, shift).
NVLABS = {
  (4, 3.0): [0.653559, -0.441360],
  (20, 3.0): [0.681204, -0.429828],
  (20, 4.0): [0.678535, -0.431863],
  (20, 6.0): [0.672998, -0.435775],
}
TOY = samplers.predictor(
  lambda x, timestep: 0.3 * x + 0.1 * jnp.sin(3 * timestep / 1000)
)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def std(t):
  return np.sqrt((1 - t) ** 2 * STD**2 + t**2)


def flow(t):
  """Exact flow of NOISE to time t, for data ~ N(MEAN, STD^2)."""
  return (1 - t) * MEAN + std(t) * NOISE


def velocity(x, t):
  """E[noise - data | x_t = x]."""
  var = (1 - t) ** 2 * STD**2 + t**2
  return -MEAN + (t - (1 - t) * STD**2) / var * (x - (1 - t) * MEAN)


def error(sampler, steps):
  """Error of the sample at t = 0.02, from t = 0.98 on the exact flow."""
  times = np.linspace(0.98, 0.02, steps + 1)
  grid = time_grids.TimeGrid(times, times[:-1])
  x = samplers.sample(
    sampler, samplers.predictor(velocity), jnp.asarray(flow(times[0])), grid
  )
  return float(jnp.max(jnp.abs(x - flow(times[-1]))))


@pytest.mark.parametrize(
  'sampler, steps, order',
  [
    (samplers.Euler(), 64, 1),
    (samplers.DpmSolver(1), 64, 1),
    (samplers.DpmSolver(2), 64, 2),
    (samplers.DpmSolver(2, 'heun'), 64, 2),
    (samplers.DpmSolver(3), 1024, 2),
  ],
  ids=str,
)
def test_the_error_falls_with_the_order(x64, sampler, steps, order):
  # Order 3 converges with order 2: see the docstring of DpmSolver's module.
  ratio = error(sampler, steps) / error(sampler, 2 * steps)
  np.testing.assert_allclose(np.log2(ratio), order, atol=0.15)


def test_order_3_has_a_fifth_of_the_error_of_order_2(x64):
  third, second = (error(samplers.DpmSolver(k), 64) for k in (3, 2))
  assert third < second / 5


@pytest.mark.parametrize('sampler', EVERY, ids=str)
def test_a_point_distribution_is_sampled_exactly(sampler):
  to_point = samplers.predictor(
    lambda x, timestep: (x - MEAN) * 1000 / timestep
  )
  times = jnp.linspace(1, 0, 6)
  x = samplers.sample(
    sampler,
    to_point,
    jnp.arange(3.0),
    time_grids.TimeGrid(times, 1000 * times[:-1]),
  )
  np.testing.assert_allclose(x, MEAN, atol=1e-6)


@pytest.mark.parametrize('sampler', EVERY, ids=str)
@pytest.mark.parametrize('steps', [1, 16])
def test_values_and_gradients_are_finite_from_time_1_to_0(sampler, steps):
  times = jnp.linspace(1, 0, steps + 1)
  grid = time_grids.TimeGrid(times, 1000 * times[:-1])
  total = lambda x: samplers.sample(sampler, TOY, x, grid).sum()
  value, gradient = jax.jit(jax.value_and_grad(total))(jnp.ones(3))
  assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize('steps, shift', NVLABS)
def test_the_default_ends_where_nvlabs_does(steps, shift):
  grid = time_grids.dpm_grid(steps, shift, continuous=True)
  x = samplers.sample(
    samplers.make('dpm++2m'), TOY, jnp.array([1.0, -0.5]), grid
  )
  np.testing.assert_allclose(x, NVLABS[steps, shift], atol=2e-5)


def test_order_1_is_euler():
  grid = time_grids.dpm_grid(5, 3.0)
  x = jnp.array([1.0, -0.5])
  np.testing.assert_array_equal(
    samplers.sample(samplers.DpmSolver(1), TOY, x, grid),
    samplers.sample(samplers.Euler(), TOY, x, grid),
  )


@pytest.mark.parametrize('sampler', EVERY, ids=str)
def test_the_model_is_traced_once_and_the_sample_stays_float32(sampler):
  traces = []

  def model(x, timestep):
    traces.append((x.dtype, timestep.shape))
    return x.astype(jnp.bfloat16)

  sample = jax.jit(
    lambda x: samplers.sample(
      sampler, samplers.predictor(model), x, time_grids.dpm_grid(20, 3.0)
    )
  )
  assert sample(jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32
  assert traces == [(jnp.float32, ())]


def test_few_steps_end_with_lower_orders():
  def orders(sampler, steps):
    times = time_grids.dpm_grid(steps, 3.0).times
    i = np.arange(steps)
    at = Interval(times[:-1], times[1:], i, steps - 1 - i)
    return [
      int(sampler._order(jax.tree.map(lambda a, k=k: a[k], at))) for k in i
    ]

  third = samplers.DpmSolver(3)
  assert orders(third, 5) == [1, 2, 3, 2, 1]
  assert orders(third, 15) == [1, 2] + [3] * 12 + [1]
  assert orders(samplers.DpmSolver(3, lower_order_final=False), 5) == (
    [1, 2, 3, 3, 1]
  )
  assert orders(samplers.DpmSolver(2), 5) == [1, 2, 2, 2, 1]


class Draws(NamedTuple):
  x: jax.Array
  seen: jax.Array


class Drawing:
  """Replaces the sample by noise; records what `init` drew."""

  def init(self, x, rng):
    return Draws(x, self.draw(rng))

  def step(self, carry, prediction, at, rng):
    return Draws(self.draw(rng), carry.seen)

  def draw(self, rng):
    return jax.vmap(jax.random.normal)(rng)


@pytest.mark.long
def test_draws_depend_on_the_examples_key_and_the_step_alone():
  keys = jax.random.split(jax.random.key(3), 4)
  grid = time_grids.dpm_grid(5, 3.0)

  def run(keys, *cuts):
    """x and first draw after each part of the steps."""
    carry, steps = samplers.begin(Drawing(), jnp.zeros(len(keys)), grid, keys)
    out = [carry.seen]
    for cut in cuts:
      part = jax.tree.map(lambda x, cut=cut: x[cut], steps)
      carry = samplers.advance(Drawing(), TOY, carry, part, keys)
      out.append(carry.x)
    return np.stack(out)

  by_step = run(keys, *(slice(i, i + 1) for i in range(5)))
  assert len(np.unique(by_step)) == by_step.size
  for stop in (3, 5):
    np.testing.assert_array_equal(run(keys, slice(stop))[-1], by_step[stop])
  np.testing.assert_array_equal(
    run(keys[2:3], slice(2), slice(2, 5))[:, 0], by_step[[0, 2, 5], 2]
  )


def test_an_unknown_sampler_lists_the_names():
  with pytest.raises(UserError) as error:
    samplers.make('ddim')
  assert (error.value.key, error.value.value) == ('sampler', 'ddim')
  assert error.value.allowed == samplers.NAMES


@pytest.mark.parametrize('settings', [{'order': 4}, {'variant': 'ralston'}])
def test_an_unknown_order_or_variant_is_refused(settings):
  with pytest.raises(UserError) as error:
    samplers.DpmSolver(**settings)
  assert {error.value.key: error.value.value} == settings
