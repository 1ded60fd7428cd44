"""Grids and samplers against diffusers' schedulers, step by step."""

import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion import samplers, time_grids

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

pytestmark = [
  pytest.mark.parity,
  # diffusers hands a tensor to a numpy function.
  pytest.mark.filterwarnings('ignore:__array__ impl:DeprecationWarning')]

GRIDS = pytest.mark.parametrize('steps, shift', [
  (2, 1.), (3, 3.), (5, 6.), (14, 1.), (14, 3.), (15, 3.), (15, 6.), (20, 3.)])


def toy(sin, x, timestep):
  """A velocity of no special form; the sine tells timesteps apart."""
  return 0.3 * x + sin(2 * x) + 0.5 * sin(3 * timestep / 1000)


def reference(scheduler, steps, x):
  scheduler.set_timesteps(steps)
  x = torch.from_numpy(x)
  for t in scheduler.timesteps:
    x = scheduler.step(toy(torch.sin, x, t.float()), t, x).prev_sample
  return x.numpy()


def check(sampler, grid, scheduler, steps):
  noise = np.random.default_rng().normal(size=(2, 4, 4, 3)).astype(np.float32)
  ours = samplers.sample(
    sampler, lambda x, t: toy(jnp.sin, x, t), jnp.asarray(noise), grid)
  theirs = reference(scheduler, steps, noise)
  np.testing.assert_array_equal(grid.times, scheduler.sigmas.numpy())
  np.testing.assert_array_equal(grid.timesteps, scheduler.timesteps.numpy())
  error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
  assert error <= 1e-5, error


@GRIDS
@pytest.mark.parametrize('order, variant, lower_order_final', [
  (1, 'midpoint', True), (2, 'midpoint', True), (2, 'heun', True),
  (3, 'midpoint', True), (3, 'heun', True), (3, 'midpoint', False)])
def test_dpm_solver_is_diffusers(
    order, variant, lower_order_final, steps, shift):
  scheduler = diffusers.DPMSolverMultistepScheduler(
    use_flow_sigmas=True, prediction_type='flow_prediction', flow_shift=shift,
    solver_order=order, solver_type=variant,
    lower_order_final=lower_order_final)
  check(samplers.DpmSolver(order, variant, lower_order_final),
        time_grids.dpm_grid(steps, shift), scheduler, steps)


@GRIDS
def test_euler_is_diffusers(steps, shift):
  check(samplers.Euler(), time_grids.flow_euler_grid(steps, shift),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=shift), steps)
