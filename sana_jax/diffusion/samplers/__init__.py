"""Samplers, by name."""

from sana_jax.diffusion.samplers.base import (
  advance,
  begin,
  Constrain,
  finish,
  Predict,
  predictor,
  sample,
  Sampler,
)
from sana_jax.diffusion.samplers.dpm_solver import DpmSolver
from sana_jax.diffusion.samplers.euler import Euler
from sana_jax.diffusion.samplers.scm import Scm
from sana_jax.errors import did_you_mean, UserError

# DPM-Solver++ of order 1 is Euler's method on its own time grid.
_SAMPLERS = {
  'euler': Euler(),
  'dpm++1m': DpmSolver(order=1),
  'dpm++1m-heun': DpmSolver(order=1),
  'dpm++2m': DpmSolver(order=2),
  'dpm++2m-heun': DpmSolver(order=2, variant='heun'),
  'dpm++3m': DpmSolver(order=3),
  'dpm++3m-heun': DpmSolver(order=3, variant='heun'),
  'scm': Scm(),
}
# Schedulers of diffusers that are the same method.
_OF_DIFFUSERS = {
  'FlowMatchEulerDiscreteScheduler': 'euler',
  'DPMSolverMultistepScheduler': 'dpm++2m',
  'SCMScheduler': 'scm',
}
NAMES = list(_SAMPLERS)  # Extended by `register`.


def register(name: str, sampler: Sampler) -> None:
  """Adds a sampler under a new name; raises ValueError if the name is taken."""
  if _SAMPLERS.get(name, sampler) != sampler:
    raise ValueError(f'The sampler {name!r} exists; choose another name.')
  if name not in _SAMPLERS:
    NAMES.append(name)
  _SAMPLERS[name] = sampler


def named(name: str) -> str:
  """Our name of a sampler, also for the name of diffusers' scheduler.

  Raises:
    UserError: if there is none.
  """
  name = _OF_DIFFUSERS.get(name, name)
  make(name)
  return name


def make(name: str) -> Sampler:
  """Returns the sampler of that name.

  Raises:
    UserError: if there is none; the message lists the names.
  """
  if name not in _SAMPLERS:
    hint = did_you_mean(name.lower(), NAMES)
    if name.endswith('Scheduler'):
      ours = ', '.join(f'{k} ({v})' for k, v in _OF_DIFFUSERS.items())
      hint = f" (of diffusers' schedulers there are {ours})"
    raise UserError(
      f'The sampler is {name!r}{hint}; allowed are {", ".join(NAMES)} '
      '(key: sampler).',
      key='sampler',
      value=name,
      allowed=NAMES,
    )
  return _SAMPLERS[name]


__all__ = [
  'advance',
  'begin',
  'Constrain',
  'DpmSolver',
  'Euler',
  'finish',
  'make',
  'named',
  'NAMES',
  'Predict',
  'predictor',
  'register',
  'sample',
  'Sampler',
  'Scm',
]
