"""Times of the flow: the shift, and sampling of training times.

Training draws t from a logit-normal density (2403.03206, 3.1) and shifts it
towards noise, the more so the larger the image (the same paper, 5.3.2):

  shift(t) = s t / (1 + (s - 1) t)

The official code draws from a table of 1000 times instead, and truncates the
timestep to an integer; `discrete=True` does the same. By default time is
continuous, because samplers visit times between the table's entries.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.diffusion.paths import TRAIN_TIMESTEPS
from sana_jax.errors import UserError
from sana_jax.typing import Array, Float, PRNGKeyArray

T = TypeVar('T')


class Times(NamedTuple):
  """Training times of the path, and the corresponding model timesteps."""

  t: Float[Array, 'b']  # In (0, 1); [0, 1) where discrete.
  timestep: Float[Array, 'b']  # 1000 t, an integer where discrete.


def shift_time(t: T, shift: float) -> T:
  """Moves times in [0, 1] towards noise; the ends stay, shift 1 is identity."""
  return shift * t / (1 + (shift - 1) * t)


def sample_times(
  rng: PRNGKeyArray,
  batch: int,
  *,
  density: str = 'logit_normal',
  mean: float = 0.0,
  std: float = 1.0,
  shift: float = 1.0,
  discrete: bool = False,
) -> Times:
  """Draws a batch of training times.

  Args:
    rng: consumed.
    batch: number of times.
    density: 'logit_normal' or 'uniform', before the shift.
    mean: mean of the logit of the time, if logit-normal.
    std: its standard deviation.
    shift: see `shift_time`.
    discrete: the official table: index i = floor(1000 u), t = shift(i / 1000),
      timestep truncated. Index 0 (no noise) occurs, as in the official code.

  Raises:
    UserError: if the density is unknown or the shift is not positive.
  """
  check_shift(shift)
  if density == 'logit_normal':
    u = jax.nn.sigmoid(mean + std * jax.random.normal(rng, (batch,)))
  elif density == 'uniform':
    u = jax.random.uniform(rng, (batch,))
  else:
    raise UserError(
      f'The density of training times is {density!r}; allowed are '
      "'logit_normal' and 'uniform' (key: density).",
      key='density',
      value=density,
      allowed=('logit_normal', 'uniform'),
    )
  if discrete:
    return _from_table(u, shift)
  # Both ends are singular in the sampler's log SNR or in a loss weight.
  eps = jnp.finfo(u.dtype).eps
  t = jnp.clip(shift_time(u, shift), eps, 1 - eps)
  return Times(t, TRAIN_TIMESTEPS * t)


def _from_table(u, shift):
  # In float64, as in the reference: the truncation is sensitive to it.
  betas = np.linspace(1, 1 / TRAIN_TIMESTEPS, TRAIN_TIMESTEPS)
  table = shift_time(1 - betas, shift)
  i = jnp.minimum(jnp.int32(TRAIN_TIMESTEPS * u), TRAIN_TIMESTEPS - 1)
  look_up = lambda values: jnp.asarray(values, u.dtype)[i]
  return Times(look_up(table), look_up(np.trunc(TRAIN_TIMESTEPS * table)))


def check_shift(shift: float) -> None:
  """Raises UserError unless the shift is positive and finite."""
  if not 0 < shift < float('inf'):
    raise UserError(
      f'The flow shift is {shift}; it must be positive and finite, for '
      'example 3.0 at 1024 px (key: shift).',
      key='shift',
      value=shift,
      allowed='positive and finite',
    )
