"""Parity of samplers and time grids with diffusers and official values.

Each row runs a sampler over all of `GRIDS` with a generic toy velocity and has
the largest error.
"""

import functools
import warnings

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from sana_jax.diffusion import samplers, time_grids
from sana_jax.diffusion.guidance import guide
from sana_jax.diffusion.paths import Prediction
from sana_jax.tools.parity.ledger import Case, MODULE, relative_error

# (steps, flow shift).
GRIDS = (
  (1, 3.0),
  (2, 1.0),
  (3, 3.0),
  (5, 6.0),
  (14, 1.0),
  (15, 6.0),
  (20, 3.0),
  (20, 4.0),
  (50, 8.0),
)
_SOLVERS = (  # Order, variant, whether the last steps have a lower order.
  (1, 'midpoint', True),
  (2, 'midpoint', True),
  (2, 'heun', True),
  (3, 'midpoint', True),
  (3, 'heun', True),
  (3, 'midpoint', False),
)
# NVlabs' own sampler, run once: (steps, shift) -> end values of _official.
_ENDS = {
  (4, 3.0): (0.653559, -0.441360),
  (20, 3.0): (0.681204, -0.429828),
  (20, 4.0): (0.678535, -0.431863),
  (20, 6.0): (0.672998, -0.435775),
}
_TIMES = {  # The first, second and last timestep of NVlabs' grids.
  (4, 3.0): (999.666, 899.640, 499.667),
  (20, 3.0): (999.666, 982.420, 136.240),
  (20, 4.0): (999.750, 986.756, 173.762),
  (20, 6.0): (999.833, 991.131, 239.808),
}


def cases() -> list[Case]:
  """Cases of grids (equal bit for bit) and trajectories (up to rounding)."""
  case = functools.partial(
    Case, 'samplers', size=f'{len(GRIDS)} grids', dtype='float32'
  )
  rows = []
  for solver in _SOLVERS:
    name = _name(*solver)
    rows += [
      case(
        what=f'{name}: times and timesteps',
        bound=0.0,
        measure=functools.partial(_grids, solver),
      ),
      case(
        what=name,
        bound=MODULE,
        measure=functools.partial(_trajectories, solver),
      ),
    ]
  official = functools.partial(
    Case,
    'samplers',
    size=f'{len(_ENDS)} grids',
    dtype='float32',
    against='official',
  )
  return rows + [
    case(
      what='Euler: times and timesteps',
      bound=0.0,
      measure=functools.partial(_grids, None),
    ),
    case(
      what='Euler', bound=MODULE, measure=functools.partial(_trajectories, None)
    ),
    Case(
      'samplers',
      'classifier-free guidance',
      'tiny',
      'float32',
      MODULE,
      _guidance,
      against='closed form',
    ),
    official(
      what='DPM-Solver++ 2M, continuous timesteps: times',
      bound=1e-6,
      measure=_official_times,
    ),
    # diffusers goes through the noise prediction, which loses digits at t = 1.
    official(
      what='DPM-Solver++ 2M, continuous timesteps: end values',
      bound=1e-4,
      measure=_official_ends,
    ),
  ]


def _name(order, variant, lower):
  return f'DPM-Solver++ order {order}, {variant}' + (
    '' if lower else ', full order to the end'
  )


def _pair(solver, shift):
  """(sampler, grid, diffusers' scheduler)."""
  if solver is None:
    return (
      samplers.Euler(),
      time_grids.flow_euler_grid,
      diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
    )
  order, variant, lower = solver
  return (
    samplers.DpmSolver(*solver),
    time_grids.dpm_grid,
    (
      diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type='flow_prediction',
        flow_shift=shift,
        solver_order=order,
        solver_type=variant,
        lower_order_final=lower,
      )
    ),
  )


def _toy(sin, x, timestep):
  """Toy velocity; the sine distinguishes timesteps."""
  return 0.3 * x + sin(2 * x) + 0.5 * sin(3 * timestep / 1000)


def _grids(solver, seed):
  del seed
  worst = 0.0
  for steps, shift in GRIDS:
    _, grid, scheduler = _pair(solver, shift)
    _set(scheduler, steps)
    ours = grid(steps, shift)
    worst = max(
      worst,
      relative_error(ours.times, scheduler.sigmas.numpy()),
      relative_error(ours.timesteps, scheduler.timesteps.numpy()),
    )
  return worst


def _set(scheduler, steps):
  with warnings.catch_warnings():
    # diffusers passes a tensor to a NumPy function.
    warnings.simplefilter('ignore', DeprecationWarning)
    scheduler.set_timesteps(steps)


def _trajectories(solver, seed):
  noise = np.random.default_rng(seed).normal(size=(2, 4, 4, 3))
  noise = noise.astype(np.float32)
  worst = 0.0
  for steps, shift in GRIDS:
    sampler, grid, scheduler = _pair(solver, shift)
    got = jax.jit(
      functools.partial(
        samplers.sample,
        sampler,
        samplers.predictor(functools.partial(_toy, jnp.sin)),
      )
    )(jnp.asarray(noise), grid(steps, shift))
    _set(scheduler, steps)
    x = torch.from_numpy(noise)
    for t in scheduler.timesteps:
      x = scheduler.step(_toy(torch.sin, x, t.float()), t, x).prev_sample
    worst = max(worst, relative_error(got, x.numpy()))
  return worst


def _guidance(seed):
  rng = np.random.default_rng(seed)
  x, u, c = (rng.normal(size=(3, 4)).astype(np.float32) for _ in range(3))
  model = lambda x, t, condition, timestep: Prediction(
    x, t, jnp.sin(x) + timestep[:, None] / 1000 * condition
  )
  got = guide(model, jnp.asarray(c), jnp.asarray(u), 4.5)(
    jnp.asarray(x), jnp.float32(0.3), jnp.float32(300.0)
  ).velocity()
  u, c = (np.sin(x) + 0.3 * y for y in (u, c))
  return relative_error(got, u + 4.5 * (c - u))


def _official_times(seed):
  del seed
  return max(
    relative_error(
      time_grids.dpm_grid(*grid, continuous=True).timesteps[[0, 1, -1]], want
    )
    for grid, want in _TIMES.items()
  )


def _official_ends(seed):
  del seed
  velocity = lambda x, t: 0.3 * x + 0.1 * jnp.sin(3 * t / 1000)
  return max(
    relative_error(
      samplers.sample(
        samplers.DpmSolver(2),
        samplers.predictor(velocity),
        jnp.array([1.0, -0.5]),
        time_grids.dpm_grid(*grid, continuous=True),
      ),
      want,
    )
    for grid, want in _ENDS.items()
  )
