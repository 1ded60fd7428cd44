"""Time grids: times at which a sampler calls the model, from noise to data.

Grids are made on the host in float64 and rounded once, as the references do.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from sana_jax import fields
from sana_jax.diffusion.flow import check_shift, shift_time
from sana_jax.diffusion.paths import Flow, Path, TRAIN_TIMESTEPS, TrigFlow
from sana_jax.errors import UserError
from sana_jax.typing import Array, Float

# SANA-Sprint's angle of pure noise, pi/2 as rounded in diffusers and NVlabs,
# and the second of its two steps.
NOISE_ANGLE, MIDDLE_ANGLE = 1.5708, 1.3
_ANGLES = fields.list_of(fields.number(0, NOISE_ANGLE), 1, 1001)


class TimeGrid(NamedTuple):
  """Times of a path, and the model's timestep at each step's start."""

  times: Float[np.ndarray, 'n+1'] | Float[Array, 'n+1']  # Decreasing to 0.
  timesteps: Float[np.ndarray, 'n'] | Float[Array, 'n']  # In [0, 1000].
  path: Path = Flow()


def dpm_grid(
  steps: int, shift: float, continuous: bool = False, strength: float = 1.0
) -> TimeGrid:
  """Grid of SANA: evenly spaced up to 0.999, then shifted.

  Args:
    steps: model calls.
    shift: the checkpoint's flow shift.
    continuous: passes 1000 t to the model unrounded, as NVlabs' sampler does.
      By default it is truncated to an integer, as diffusers'
      DPMSolverMultistepScheduler does; the times are the same.
    strength: part of the grid that is left, see `_last_part`.

  Raises:
    UserError: if there is no step or the shift is not positive.
  """
  _check(steps, shift)
  ramp = 1 - np.linspace(1, 1 / TRAIN_TIMESTEPS, steps + 1)
  times = shift_time(_last_part(ramp[:0:-1], strength), shift)
  timesteps = TRAIN_TIMESTEPS * times
  return _grid(times, timesteps if continuous else np.trunc(timesteps))


def flow_euler_grid(
  steps: int,
  shift: float,
  double_shift: bool = True,
  strength: float = 1.0,
) -> TimeGrid:
  """Euler grid: evenly spaced from 1 to 0.001, then shifted; not truncated.

  Args:
    steps: model calls.
    shift: the checkpoint's flow shift.
    double_shift: as in diffusers' FlowMatchEulerDiscreteScheduler, which spaces
      down to the *shifted* 0.001 and then shifts again (its issue 13243), so
      that the last step starts near 0.009 for shift 3. False shifts once.
    strength: part of the grid that is left, see `_last_part`.

  Raises:
    UserError: if there is no step or the shift is not positive.
  """
  _check(steps, shift)
  last = 1 / TRAIN_TIMESTEPS
  if double_shift:
    last = float(shift_time(np.float32(last), shift))
  ramp = _last_part(np.linspace(1, last, steps), strength)
  times = shift_time(ramp, shift)
  return _grid(times, TRAIN_TIMESTEPS * np.float32(times))


def scm_times(
  steps: int, noise: float = NOISE_ANGLE, middle: float = MIDDLE_ANGLE
) -> list[float]:
  """Angles of SANA-Sprint's steps, decreasing from `noise` towards 0.

  Evenly spaced, except that the second of two steps is at `middle`, as in
  diffusers' SCMScheduler.

  Raises:
    UserError: if there is no step.
  """
  _check(steps, 1.0)
  if steps == 2:
    return [noise, middle]
  return np.linspace(noise, 0, steps + 1)[:-1].tolist()


def scm_grid(times: Any) -> TimeGrid:
  """Grid on `TrigFlow` of angles at which the model is called.

  Args:
    times: decreasing, in (0, 1.5708]; as in diffusers, 0 may be added as the
      end.

  Raises:
    UserError: if they are not.
  """
  if isinstance(times, Sequence | np.ndarray) and not isinstance(times, str):
    times = [fields.plain(t) for t in times]
  fields.check('The call', {'times': times}, {'times': _ANGLES})
  angles = [*times, 0] if times[-1] else times
  if len(angles) == 1 or any(t <= s for t, s in zip(angles, angles[1:])):
    raise UserError(
      f'times is {fields.shown(times)}; times of scm must decrease, such as '
      f'{[NOISE_ANGLE, MIDDLE_ANGLE]}.',
      key='times',
      value=times,
      allowed='decreasing times',
    )
  t = np.float64(np.float32(angles[:-1]))
  timesteps = TRAIN_TIMESTEPS * np.sin(t) / (np.sin(t) + np.cos(t))
  return TimeGrid(np.float32(angles), np.float32(timesteps), TrigFlow())


def _last_part(ramp, strength):
  """Times of a picture that starts from an image, from those of noise.

  Of n times, n * strength are left, as in diffusers' pipelines of images. Where
  that is no integer, one more is, and the first lies between two of the ramp.
  """
  if strength == 1:
    return ramp
  steps = len(ramp)
  left = round(steps * strength, 6)
  places = np.linspace(steps - left, steps - 1, math.ceil(left))
  return np.interp(places, np.arange(steps + 1), np.append(ramp, 0))


def _grid(times, timesteps):
  return TimeGrid(np.float32(np.append(times, 0)), np.float32(timesteps))


def _check(steps, shift):
  if steps < 1:
    raise UserError(
      f'The number of sampling steps is {steps}; it must be at least 1 '
      '(key: steps).',
      key='steps',
      value=steps,
      allowed='1 or more',
    )
  check_shift(shift)
