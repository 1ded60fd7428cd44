"""Learning-rate schedules by name, built from optax's.

Warm-up is linear from 0, and step 0 has rate 0, as in diffusers. A rate depends
only on the step, so that a resumed run needs no state for it.
"""

import math

from ml_collections import ConfigDict
import optax

from sana_jax.errors import UserError
from sana_jax.printable import counted

RATED_BATCH = 256  # Images, for which NVlabs/Sana states its rates.
# Factor of the rate for a batch of another size, by name.
RATE_RULES = {
  '': lambda batch_size: 1.0,
  'sqrt': lambda batch_size: math.sqrt(batch_size / RATED_BATCH),
  'linear': lambda batch_size: batch_size / RATED_BATCH,
}


def constant(peak: float, warmup_steps: int = 0) -> optax.Schedule:
  """Warm-up, then the peak, as used to train SANA."""
  # optax.warmup_constant_schedule stays at 0 for ever if there is no warm-up.
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, peak, warmup_steps),
      optax.constant_schedule(peak),
    ],
    [warmup_steps],
  )


def cosine(
  peak: float,
  num_steps: int,
  warmup_steps: int = 0,
  final: float = 0.0,
) -> optax.Schedule:
  """Warm-up, then half a cosine that reaches `final` at num_steps."""
  return optax.warmup_cosine_decay_schedule(
    0.0, peak, warmup_steps, num_steps, final
  )


def cosine_decay_to_constant(
  peak: float,
  num_steps: int,
  warmup_steps: int,
  decay_fraction: float,
  final_scale: float,
) -> optax.Schedule:
  """NVlabs/Sana's schedule: an early cosine, then peak * final_scale.

  Args:
    peak: rate after the warm-up.
    num_steps: number of steps of the run.
    warmup_steps: counted within decay_fraction.
    decay_fraction: fraction of the run at which the cosine ends.
    final_scale: 1 / lr_scale_ratio there, whose defaults are .667 and .1.
  """
  return cosine(
    peak, int(decay_fraction * num_steps), warmup_steps, peak * final_scale
  )


def warmup_stable_decay(
  peak: float,
  num_steps: int,
  warmup_steps: int,
  decay_fraction: float,
) -> optax.Schedule:
  """Warm-up, the peak, then linear to 0 in the run's last decay_fraction."""
  decay_steps = int(decay_fraction * num_steps)
  return optax.join_schedules(
    [
      constant(peak, warmup_steps),
      optax.linear_schedule(peak, 0.0, decay_steps),
    ],
    [num_steps - decay_steps],
  )


SCHEDULES = {
  'constant': lambda c, n: constant(c.learning_rate, c.warmup_steps),
  'cosine': lambda c, n: cosine(c.learning_rate, n, c.warmup_steps),
  'cosine_decay_to_constant': lambda c, n: cosine_decay_to_constant(
    c.learning_rate, n, c.warmup_steps, c.decay_fraction, c.final_scale
  ),
  'warmup_stable_decay': lambda c, n: warmup_stable_decay(
    c.learning_rate, n, c.warmup_steps, c.decay_fraction
  ),
}


def make(
  config,
  num_steps: int,
  batch_size: int = RATED_BATCH,
  group: str = 'optimizer',
) -> optax.Schedule:
  """The schedule of a complete optimizer config; see `factory.make`.

  Raises:
    UserError: if the warm-up does not fit the run.
  """
  name, warmup = config.schedule, config.warmup_steps
  decay_steps = int(config.decay_fraction * num_steps)
  longest = {
    'constant': warmup,
    'cosine': num_steps - 1,
    'cosine_decay_to_constant': decay_steps - 1,
    'warmup_stable_decay': num_steps - decay_steps,
  }[name]
  if warmup > longest:
    raise UserError(
      f'The warm-up is {counted(warmup, "step")}; schedule '
      f'{name!r} allows 0 to {longest} '
      f'in a run of {counted(num_steps, "step")} (key: {group}.warmup_steps).',
      key=f'{group}.warmup_steps',
      value=warmup,
      allowed=f'0 to {longest}',
    )
  peak = config.learning_rate * RATE_RULES[config.auto_lr](batch_size)
  return SCHEDULES[name](
    ConfigDict({**config, 'learning_rate': peak}), num_steps
  )
