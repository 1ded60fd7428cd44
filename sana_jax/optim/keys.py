"""Keys of an optimizer's config."""

from sana_jax.fields import Field
from sana_jax.keys import (
  FRACTION,
  Key,
  NOT_NEGATIVE,
  one_of,
  parsed_by,
  POSITIVE,
  SHARE,
)
from sana_jax.optim import groups, optimizers, schedules

KEYS = {
  'name': Key(
    'adamw',
    'The optimizer: see docs/optimizers.md.',
    one_of(optimizers.OPTIMIZERS),
  ),
  'learning_rate': Key(1e-4, 'Peak of the schedule.', POSITIVE),
  'auto_lr': Key(
    '',
    "Multiplies the rate by sqrt(batch_size / 256) for 'sqrt', by "
    "batch_size / 256 for 'linear'.",
    one_of(schedules.RATE_RULES),
  ),
  'schedule': Key(
    'constant',
    'After the warm-up: see optim/schedules.py.',
    one_of(schedules.SCHEDULES),
  ),
  'warmup_steps': Key(
    0, 'Steps in which the rate rises from 0 to its peak.', NOT_NEGATIVE
  ),
  'decay_fraction': Key(
    0.3,
    'Fraction of the run in which the rate decays, for the schedules that '
    'have one.',
    Field('more than 0 and at most 1', lambda v: 0 < v <= 1),
  ),
  'final_scale': Key(
    0.1, "'cosine_decay_to_constant' ends at this times the rate.", SHARE
  ),
  'weight_decay': Key(0.0, 'Decoupled, times the rate.', NOT_NEGATIVE),
  'b1': Key(
    0.9,
    "Decay of the momentum; for muon, of adam's on the parameters left to it.",
    FRACTION,
  ),
  'b2': Key(
    0.999, 'Decay of the second moment; adafactor has its own rule.', FRACTION
  ),
  'b3': Key(
    0.0, "Decay of CAME's instability; 0 for its default, 0.9999.", FRACTION
  ),
  'eps': Key(
    0.0,
    'Keeps the second moment from 0: added to its root (adamw, muon, '
    '1e-8) or to the squared gradient (CAME, adafactor, 1e-30); 0 for the '
    "optimizer's default.",
    NOT_NEGATIVE,
  ),
  'clip_norm': Key(
    0.1, 'Largest global norm of the gradient; 0 for no limit.', NOT_NEGATIVE
  ),
  'groups': Key(
    '',
    'Other settings of parameters by patterns of their paths: see '
    'docs/optimizers.md.',
    parsed_by(groups.parse, groups.FORM),
  ),
}
