"""A folder's scheduler decides the sampler, or is refused by what differs."""

import json

import pytest

from sana_jax.errors import UserError
from sana_jax.inference.conventions import Convention
from sana_jax.inference.schedulers import read_scheduler, time_grid

pytestmark = pytest.mark.fast

DPM = {
  '_class_name': 'DPMSolverMultistepScheduler',
  'use_flow_sigmas': True,
  'prediction_type': 'flow_prediction',
  'flow_shift': 3.0,
}
SCM = {
  '_class_name': 'SCMScheduler',
  'num_train_timesteps': 1000,
  'prediction_type': 'trigflow',
  'sigma_data': 0.5,
}
EULER = {'_class_name': 'FlowMatchEulerDiscreteScheduler', 'shift': 4.0}


def folder(tmp_path, config):
  (tmp_path / 'scheduler').mkdir()
  path = tmp_path / 'scheduler' / 'scheduler_config.json'
  path.write_text(json.dumps(config))
  return tmp_path


@pytest.mark.parametrize(
  'config, want',
  [
    (DPM, ('dpm++2m', 3.0)),
    (DPM | {'solver_order': 3}, ('dpm++3m', 3.0)),
    (DPM | {'solver_type': 'heun', 'flow_shift': 6.0}, ('dpm++2m-heun', 6.0)),
    (DPM | {'solver_order': 1}, ('dpm++1m', 3.0)),
    # As published: infinity, and nulls for what is off.
    (
      DPM
      | {
        'lambda_min_clipped': -float('inf'),
        'variance_type': None,
        'use_lu_lambdas': None,
        'timestep_spacing': 'linspace',
      },
      ('dpm++2m', 3.0),
    ),
    (EULER, ('euler', 4.0)),
    (SCM, ('scm', 3.0)),
    ({'_class_name': 'SCMScheduler'}, ('scm', 3.0)),
  ],
)
def test_the_scheduler_names_the_sampler(tmp_path, config, want):
  assert read_scheduler(folder(tmp_path, config)) == want


@pytest.mark.parametrize(
  'config, key, value, allowed',
  [
    (
      {'_class_name': 'DDIMScheduler'},
      'scheduler',
      'DDIMScheduler',
      'DPMSolverMultistepScheduler',
    ),
    (DPM | {'use_flow_sigmas': False}, 'use_flow_sigmas', False, True),
    (SCM | {'sigma_data': 1.0}, 'sigma_data', 1.0, 0.5),
    (
      {'_class_name': 'DPMSolverMultistepScheduler'},
      'prediction_type',
      'epsilon',
      'flow_prediction',
    ),
    (DPM | {'use_karras_sigmas': True}, 'use_karras_sigmas', True, False),
    (
      DPM | {'algorithm_type': 'sde-dpmsolver++'},
      'algorithm_type',
      'sde-dpmsolver++',
      'dpmsolver++',
    ),
    (
      DPM | {'final_sigmas_type': 'sigma_min'},
      'final_sigmas_type',
      'sigma_min',
      'zero',
    ),
    (
      EULER | {'use_dynamic_shifting': True},
      'use_dynamic_shifting',
      True,
      False,
    ),
  ],
)
def test_what_would_draw_another_picture_is_refused(
  tmp_path, config, key, value, allowed
):
  with pytest.raises(UserError) as error:
    read_scheduler(folder(tmp_path, config))
  assert (error.value.key, error.value.value) == (key, value)
  assert allowed in error.value.allowed


def test_conventions_change_the_grid():
  whole, continuous = (
    time_grid('dpm++2m', 4, 3.0, Convention(continuous_timesteps=c)).timesteps
    for c in (False, True)
  )
  assert whole.tolist() == [999.0, 899.0, 749.0, 499.0]
  assert continuous[1] == pytest.approx(899.640, abs=1e-3)
  once = time_grid('euler', 20, 3.0, Convention(double_shift=False))
  # 3 t / (1 + 2 t) of 0.001 is 2.994e-3; twice, it is 8.93e-3.
  assert once.times[-2] == pytest.approx(2.994e-3, rel=1e-3)
  assert time_grid('euler', 20, 3.0).times[-2] == pytest.approx(
    8.93e-3, rel=1e-3
  )
