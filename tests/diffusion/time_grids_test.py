"""Grids against the values that diffusers and NVlabs/Sana print."""

import numpy as np
import pytest

from sana_jax.diffusion import time_grids
from sana_jax.diffusion.paths import TrigFlow
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast

# diffusers 0.42, DPMSolverMultistepScheduler(use_flow_sigmas=True).
DIFFUSERS_DPM = {
  (2, 3.0): [999, 749],
  (5, 6.0): [999, 959, 899, 799, 599],
  (5, 8.0): [999, 969, 922, 841, 666],
  (20, 3.0): [
    999,
    982,
    963,
    944,
    922,
    899,
    874,
    847,
    817,
    785,
    749,
    710,
    666,
    617,
    562,
    499,
    428,
    345,
    249,
    136,
  ],
}
# NVlabs/Sana, diffusion/scheduler/dpm_solver.py.
NVLABS_DPM = {
  (4, 3.0): [999.666, 899.640, 749.625, 499.667],
  (20, 3.0): [
    999.666,
    982.420,
    963.941,
    944.094,
    922.722,
    899.640,
    874.635,
    847.457,
    817.810,
    785.340,
    749.625,
    710.152,
    666.296,
    617.284,
    562.148,
    499.667,
    428.265,
    345.888,
    249.792,
    136.240,
  ],
  (20, 4.0): [
    999.750,
    986.756,
    972.710,
    957.477,
    940.899,
    922.793,
    902.934,
    881.057,
    856.837,
    829.875,
    799.680,
    765.631,
    726.942,
    682.594,
    631.246,
    571.102,
    499.687,
    413.508,
    307.456,
    173.762,
  ],
  (20, 6.0): [
    999.833,
    991.131,
    981.640,
    971.243,
    959.808,
    947.169,
    933.126,
    917.431,
    899.775,
    879.765,
    856.898,
    830.513,
    799.733,
    763.359,
    719.712,
    666.370,
    599.700,
    513.992,
    399.733,
    239.808,
  ],
}


@pytest.mark.parametrize('steps, shift', DIFFUSERS_DPM)
def test_the_dpm_grid_truncates_timesteps_as_diffusers(steps, shift):
  grid = time_grids.dpm_grid(steps, shift)
  np.testing.assert_array_equal(grid.timesteps, DIFFUSERS_DPM[steps, shift])


@pytest.mark.parametrize('steps, shift', NVLABS_DPM)
def test_the_continuous_dpm_grid_is_nvlabs(steps, shift):
  grid = time_grids.dpm_grid(steps, shift, continuous=True)
  np.testing.assert_allclose(
    grid.timesteps, NVLABS_DPM[steps, shift], atol=1e-3
  )
  np.testing.assert_allclose(1000 * grid.times[:-1], grid.timesteps, rtol=1e-6)
  assert grid.times[-1] == 0
  assert grid.times.dtype == grid.timesteps.dtype == np.float32


def test_the_euler_grid_shifts_twice_as_diffusers_or_once():
  twice = time_grids.flow_euler_grid(20, 3.0)
  np.testing.assert_allclose(
    twice.timesteps[[0, 1, 2, -2, -1]],
    [1000, 981.87, 962.39, 149.79, 8.93],
    atol=6e-3,
  )
  once = time_grids.flow_euler_grid(20, 3.0, double_shift=False)
  # shift(0.001) = 0.003 / 1.002.
  np.testing.assert_allclose(once.timesteps[-1], 3 / 1.002, rtol=1e-6)
  assert once.times[-1] == twice.times[-1] == 0


@pytest.mark.parametrize(
  'make', [time_grids.dpm_grid, time_grids.flow_euler_grid]
)
@pytest.mark.parametrize(
  'steps, shift, key',
  [(0, 3.0, 'steps'), (20, 0.0, 'shift'), (20, float('nan'), 'shift')],
)
def test_a_bad_value_is_named(make, steps, shift, key):
  with pytest.raises(UserError) as error:
    make(steps, shift)
  assert error.value.key == key
  assert error.value.value is (steps if key == 'steps' else shift)


@pytest.mark.parametrize(
  'make', [time_grids.dpm_grid, time_grids.flow_euler_grid]
)
def test_one_step_goes_from_noise_to_data(make):
  grid = make(1, 3.0)
  assert grid.times[0] > 0.999 and grid.times[1] == 0


@pytest.mark.parametrize(
  'steps, angles',
  [  # diffusers 0.42, SCMScheduler.set_timesteps; None but for two steps.
    (1, [1.5708, 0]),
    (2, [1.5708, 1.3, 0]),
    (3, [1.5708, 1.0472, 0.5236, 0]),
    (4, [1.5708, 1.1781, 0.7854, 0.3927, 0]),
    (8, [1.5708 * k / 8 for k in range(8, -1, -1)]),
  ],
)
def test_the_scm_grid_has_diffusers_angles(steps, angles):
  grid = time_grids.scm_grid(time_grids.scm_times(steps))
  np.testing.assert_allclose(grid.times, np.float32(angles), rtol=1e-6)
  assert grid.path == TrigFlow(0.5) and grid.times.dtype == np.float32
  # The model's time of SanaSprintPipeline, here 1000 times as large.
  s = grid.times[:-1].astype(np.float64)
  np.testing.assert_allclose(
    grid.timesteps, 1000 * np.sin(s) / (np.cos(s) + np.sin(s)), rtol=1e-6
  )


def test_angles_may_be_given_with_or_without_the_end():
  grid = time_grids.scm_grid([1.5, 0.75])
  np.testing.assert_array_equal(grid.times, np.float32([1.5, 0.75, 0]))
  for other in ((1.5, 0.75, 0), np.float64([1.5, 0.75]), [1.5, 0.75, 0.0]):
    np.testing.assert_array_equal(time_grids.scm_grid(other).times, grid.times)
  halves = time_grids.scm_times(2, 0.7854, 0.65)
  assert halves == [0.7854, 0.65]


@pytest.mark.parametrize(
  'times',
  [
    [],
    [0],
    [1.0, 1.0],
    [1.0, 1.3],
    [1.3, 0, 0],
    [1.571],
    [1.3, -0.1],
    [float('nan')],
    [True],
    ['1.3'],
    [[1.3]],
    [1.3, [1.0]],
    np.ones((1, 1)),
    '1.3',
    1.3,
    None,
    [1.0] * 1002,
  ],
  ids=str,
)
def test_bad_angles_are_named(times):
  with pytest.raises(UserError) as refused:
    time_grids.scm_grid(times)
  assert refused.value.key == 'times' and refused.value.allowed


def test_scm_needs_a_step():
  with pytest.raises(UserError) as refused:
    time_grids.scm_times(0)
  assert (refused.value.key, refused.value.value) == ('steps', 0)
