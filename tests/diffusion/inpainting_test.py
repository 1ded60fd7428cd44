"""Sampling from an image and of a part of it, against NumPy restatements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion import inpainting, samplers, time_grids
from sana_jax.diffusion.inpainting import Known
from sana_jax.diffusion.paths import Flow, Prediction, TrigFlow
from sana_jax.diffusion.time_grids import TimeGrid
from sana_jax.inference.schedulers import time_grid

pytestmark = pytest.mark.fast
SHAPE = (2, 4, 3, 5)
GRIDS = time_grids.dpm_grid, time_grids.flow_euler_grid
MASK = jnp.arange(12).reshape(1, 4, 3, 1) % 3 > 0


def drawn(seed, shape=SHAPE):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


DATA, NOISE = jnp.asarray(drawn(1, (1, *SHAPE[1:]))), jnp.asarray(drawn(2))


def point(path, data, noise, t):
  """The point of a path at time t, by the formulas of the papers."""
  t = np.float64(t)
  if isinstance(path, Flow):
    return (1 - t) * data + t * noise
  return path.sigma_data * (np.cos(t) * data + np.sin(t) * noise)


def predict_on(path):
  """A field that depends on the sample and on its time."""
  return lambda x, t, timestep: Prediction(x, t, jnp.sin(2 * x) + t, path)


def sampled(name, steps=5, strength=1.0, known=None, start=NOISE):
  """(sample, grid): of every sampler, in its own time."""
  grid = time_grid(name, steps, 3.0, strength=strength)
  keys = jax.random.split(jax.random.key(0), len(start))
  keep = inpainting.keep(known, grid.path)
  return samplers.sample(
    samplers.make(name), predict_on(grid.path), start, grid, keys, keep
  )


@pytest.mark.parametrize('path', [Flow(), TrigFlow(), TrigFlow(0.3)])
@pytest.mark.parametrize('t', [0.0, 0.3, 0.9])
def test_a_step_keeps_the_image_at_its_noise_level(path, t):
  x = drawn(3)
  keep = inpainting.keep(Known(DATA, NOISE, MASK), path)
  want = np.where(MASK, x, point(path, DATA, NOISE, t))
  np.testing.assert_allclose(keep(x, jnp.float32(t)), want, atol=1e-6)


@pytest.mark.parametrize('name', samplers.NAMES)
def test_each_sampler_blends_after_each_step(name):
  """Against the loop written out: step by step, each followed by the blend."""
  known = Known(DATA, NOISE, MASK)
  grid = time_grid(name, 5, 3.0)
  keys = jax.random.split(jax.random.key(0), len(NOISE))
  carry, steps = samplers.begin(samplers.make(name), NOISE, grid, keys)
  for i in range(5):
    now = jax.tree.map(lambda x, i=i: x[i : i + 1], steps)
    carry = samplers.advance(
      samplers.make(name), predict_on(grid.path), carry, now, keys
    )
    kept = point(grid.path, DATA, NOISE, grid.times[i + 1])
    carry = carry._replace(x=jnp.float32(np.where(MASK, carry.x, kept)))
  want = samplers.finish(carry, grid)
  got = sampled(name, known=known)
  np.testing.assert_allclose(got, want, atol=1e-5)
  everywhere = np.broadcast_to(DATA, SHAPE)
  outside = ~np.broadcast_to(MASK, SHAPE)
  np.testing.assert_array_equal(np.asarray(got)[outside], everywhere[outside])


@pytest.mark.parametrize('name', ['euler', 'dpm++3m', 'scm'])
def test_a_mask_of_ones_changes_nothing(name):
  known = Known(DATA, NOISE, jnp.ones_like(MASK))
  np.testing.assert_allclose(
    sampled(name, known=known), sampled(name), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('name', ['euler', 'dpm++2m', 'scm'])
@pytest.mark.parametrize('strength', [0.15, 0.4, 0.8])
def test_the_start_is_the_point_at_the_first_time(name, strength):
  grid = time_grid(name, 5, 3.0, strength=strength)
  start, known = inpainting.begin(NOISE, grid, DATA, MASK, strength)
  want = point(grid.path, DATA, NOISE, grid.times[0]) / grid.path.scale
  np.testing.assert_allclose(start, want, atol=1e-6)
  np.testing.assert_array_equal(known.mask, MASK)


def test_full_strength_starts_from_the_noise_itself():
  for name in ('euler', 'dpm++2m', 'scm'):
    grid = time_grid(name, 5, 3.0)
    start, known = inpainting.begin(NOISE, grid, DATA, None, 1.0)
    assert start is NOISE and known is None
  assert inpainting.begin(NOISE, grid, None, None, None) == (NOISE, None)


@pytest.mark.parametrize(
  'grid', [time_grids.dpm_grid, time_grids.flow_euler_grid]
)
def test_a_whole_number_of_steps_is_the_end_of_the_grid(grid):
  """diffusers' get_timesteps: the last int(steps * strength) of them."""
  for steps in (1, 2, 4, 10, 20):
    full = grid(steps, 3.0)
    for left in range(steps + 1):
      got = grid(steps, 3.0, strength=left / steps)
      np.testing.assert_allclose(
        got.times, full.times[steps - left :], rtol=1e-6
      )
      np.testing.assert_allclose(
        got.timesteps, full.timesteps[steps - left :], atol=1
      )
    same = grid(steps, 3.0, strength=1.0)
    np.testing.assert_array_equal(same.times, full.times)


@pytest.mark.parametrize(
  'grid', [time_grids.dpm_grid, time_grids.flow_euler_grid]
)
def test_every_strength_starts_at_its_own_time(grid):
  """Between two steps, too: closer to noise, the higher it is."""
  for steps in (1, 4, 20):
    strengths = np.linspace(0.02, 1, 50)
    found = [grid(steps, 3.0, strength=float(s)) for s in strengths]
    firsts = [x.times[0] for x in found]
    assert np.all(np.diff(firsts) > 0)
    for s, x in zip(strengths, found):
      assert len(x.timesteps) == np.ceil(round(steps * s, 6))
      assert np.all(np.diff(x.times) < 0) and x.times[-1] == 0


def test_the_angles_of_scm_are_multiplied():
  grid = time_grid('scm', 2, 3.0, strength=0.5)
  np.testing.assert_allclose(grid.times, [0.7854, 0.65, 0], rtol=1e-6)
  assert isinstance(grid, TimeGrid) and isinstance(grid.path, TrigFlow)
