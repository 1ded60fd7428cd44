"""SCM on Gaussian data, whose trajectories and their ends are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion import samplers, time_grids
from sana_jax.diffusion.paths import Flow, Prediction, TrigFlow
from sana_jax.errors import UserError

MEAN, STD = 0.7, 0.3
SIGMA = 0.5


def end(x, t):
  """End of the exact trajectory through x, for data ~ N(MEAN, STD^2)."""
  spread = np.hypot(np.cos(t) * STD, np.sin(t))
  return MEAN + STD * (x / SIGMA - np.cos(t) * MEAN) / spread


def perfect(x, t, timestep):
  """Prediction of that end, as a network distilled without any error makes."""
  cos, sin = jnp.cos(t), jnp.sin(t)
  data = MEAN + STD * (x / SIGMA - cos * MEAN) / jnp.hypot(cos * STD, sin)
  return Prediction(x, t, (cos * x - SIGMA * data) / sin, TrigFlow(SIGMA))


def draw(grid, count=8, predict=perfect, seed=0):
  noise = jax.random.normal(jax.random.key(seed), (count, 3))
  keys = jax.random.split(jax.random.key(seed + 1), count)
  sampled = jax.jit(
    lambda noise: samplers.sample(
      samplers.make('scm'), predict, noise, grid, keys
    )
  )(noise)
  return np.asarray(noise), keys, sampled


@pytest.mark.fast
@pytest.mark.parametrize(
  'times', [[1.5708], [1.5708, 1.3], [1.5, 1.0, 0.4, 0.2]], ids=str
)
def test_each_step_is_the_formula_of_diffusers_scheduler(times):
  """x' = cos t' x0 + sin t' sigma z with x0 = cos t x - sin t v, to the end."""
  noise, keys, got = draw(time_grids.scm_grid(times))
  x = SIGMA * noise
  for k, (t, s) in enumerate(zip(times, [*times[1:], 0.0]), 1):
    z = np.stack([jax.random.normal(jax.random.fold_in(y, k), 3) for y in keys])
    x = np.cos(s) * SIGMA * end(x, t) + np.sin(s) * SIGMA * z
  np.testing.assert_allclose(got, x / SIGMA, atol=2e-5)


def test_exact_predictions_give_the_datas_distribution_in_any_number_of_steps():
  for steps in (1, 2, 4):
    grid = time_grids.scm_grid(time_grids.scm_times(steps))
    _, _, got = draw(grid, 20_000)
    # 60,000 numbers: standard errors are .0012 and .0009.
    assert abs(got.mean() - MEAN) < 5e-3 and abs(got.std() - STD) < 5e-3


def test_it_draws_on_the_flow_too():
  predict = lambda x, t, timestep: Prediction(x, t, (x - MEAN) / t)
  times = np.float32([1.0, 0.5, 0.0])
  grid = time_grids.TimeGrid(times, 1000 * times[:-1], Flow())
  _, _, got = draw(grid, predict=predict)
  np.testing.assert_allclose(got, MEAN, atol=1e-6)


def test_the_carry_has_the_predicted_data():
  grid = time_grids.scm_grid([1.5708, 1.3])
  keys = jax.random.split(jax.random.key(0), 4)
  noise = jax.random.normal(jax.random.key(1), (4, 3))
  carry, steps = samplers.begin(samplers.Scm(), noise, grid, keys)
  first = jax.tree.map(lambda x: x[:1], steps)
  carry = samplers.advance(samplers.Scm(), perfect, carry, first, keys)
  np.testing.assert_allclose(
    carry.data, end(SIGMA * np.asarray(noise), 1.5708), atol=1e-5
  )


@pytest.mark.fast
def test_keys_are_needed():
  grid = time_grids.scm_grid([1.0])
  with pytest.raises(UserError) as refused:
    samplers.sample(samplers.Scm(), perfect, jnp.ones((1, 2)), grid)
  assert refused.value.key == 'rng'


@pytest.mark.fast
def test_diffusers_scheduler_has_its_name():
  assert samplers.named('SCMScheduler') == 'scm'
