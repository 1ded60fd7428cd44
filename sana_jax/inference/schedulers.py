"""scheduler_config.json: the sampler of a model, and its time grid."""

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import Any

from sana_jax import fields
from sana_jax.diffusion.time_grids import (
  dpm_grid,
  flow_euler_grid,
  scm_grid,
  scm_times,
  TimeGrid,
)
from sana_jax.errors import UserError
from sana_jax.inference.conventions import Convention, DIFFUSERS
from sana_jax.weights.folder import read_json

# Options of diffusers' schedulers that change the picture, and the only
# supported value: the default, and that of every published SANA.
_DPM = {
  'algorithm_type': 'dpmsolver++',
  'prediction_type': 'flow_prediction',
  'use_flow_sigmas': True,
  'thresholding': False,
  'lower_order_final': True,
  'euler_at_final': False,
  'final_sigmas_type': 'zero',
  'use_karras_sigmas': False,
  'use_exponential_sigmas': False,
  'use_beta_sigmas': False,
  'use_lu_lambdas': False,
  'use_dynamic_shifting': False,
  'num_train_timesteps': 1000,
}
_EULER = {
  'use_dynamic_shifting': False,
  'shift_terminal': None,
  'use_karras_sigmas': False,
  'use_exponential_sigmas': False,
  'use_beta_sigmas': False,
  'invert_sigmas': False,
  'stochastic_sampling': False,
  'num_train_timesteps': 1000,
}
_SCM = {
  'prediction_type': 'trigflow',
  'sigma_data': 0.5,
  'num_train_timesteps': 1000,
}
_SHIFT = fields.number(0.01, 100)
_ALLOWED = {
  'flow_shift': _SHIFT,
  'shift': _SHIFT,
  'solver_order': fields.integer(1, 3),
  'solver_type': fields.text(40),
}
# Defaults of DPMSolverMultistepScheduler that do not suit a SANA.
_DPM_DEFAULTS = {'prediction_type': 'epsilon', 'use_flow_sigmas': False}


def read_scheduler(folder: str | os.PathLike) -> tuple[str, float]:
  """(sampler, flow shift) of a model folder's scheduler.

  Raises UserError for an unsupported scheduler or option.
  """
  path = pathlib.Path(folder) / 'scheduler' / 'scheduler_config.json'
  config = read_json(path)
  name = config.get('_class_name')
  fields.check(str(path), config, _ALLOWED)
  if name == 'FlowMatchEulerDiscreteScheduler':
    _check(path, config, _EULER)
    return 'euler', float(config.get('shift', 1.0))
  if name == 'SCMScheduler':
    _check(path, config, _SCM)
    return 'scm', 3.0  # The shift is for other samplers.
  if name != 'DPMSolverMultistepScheduler':
    raise UserError(
      f'{folder} has the scheduler {fields.shown(name)}; '
      'DPMSolverMultistepScheduler with use_flow_sigmas, '
      'FlowMatchEulerDiscreteScheduler and SCMScheduler are supported.',
      key='scheduler',
      value=name,
      allowed=(
        'DPMSolverMultistepScheduler',
        'FlowMatchEulerDiscreteScheduler',
        'SCMScheduler',
      ),
    )
  _check(path, {**_DPM_DEFAULTS, **config}, _DPM)
  heun = '-heun' if config.get('solver_type') == 'heun' else ''
  return (
    f'dpm++{config.get("solver_order", 2)}m{heun}',
    float(config.get('flow_shift', 1.0)),
  )


def _check(path, config: Mapping[str, Any], served: Mapping[str, Any]) -> None:
  for key, value in served.items():
    got = config.get(key, value)
    if got != value and not (value is False and got is None):
      raise UserError(
        f'{path}: {key} is {fields.shown(got)}; only {value!r} is supported.',
        key=key,
        value=got,
        allowed=(value,),
      )


def time_grid(
  sampler: str,
  steps: int,
  shift: float,
  convention: Convention = DIFFUSERS,
  times: Sequence[float | int] | None = None,
  strength: float = 1.0,
) -> TimeGrid:
  """The time grid of a sampler; `times` are those of scm.

  A picture that starts from an image has a strength below 1: the last part of
  the grid, and for scm all its angles times the strength.
  """
  if sampler == 'scm':
    scaled = lambda: [strength * t for t in scm_times(steps)]
    return scm_grid(scaled() if times is None else times)
  if sampler == 'euler':
    return flow_euler_grid(steps, shift, convention.double_shift, strength)
  return dpm_grid(steps, shift, convention.continuous_timesteps, strength)
