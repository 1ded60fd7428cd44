"""Builds an optimizer from its config: clipping, optimizer and schedule.

Missing keys have the defaults of `keys.KEYS`.
"""

from ml_collections import ConfigDict
import optax

from sana_jax.errors import did_you_mean, joined, UserError
from sana_jax.keys import problems
from sana_jax.optim import groups, optimizers, schedules
from sana_jax.optim.keys import KEYS


def make(
  config: ConfigDict,
  num_steps: int,
  batch_size: int = schedules.RATED_BATCH,
  group: str = 'optimizer',
) -> optax.GradientTransformation:
  """The optimizer of a run, with clipping and schedule.

  Args:
    config: the keys that differ from the defaults.
    num_steps: number of steps of the run.
    batch_size: over all devices, for `auto_lr`.
    group: name of this group in the config, for errors.

  Raises:
    UserError: if a key or a name is unknown or a value is out of range.
  """
  config = complete(config, group)
  rate = schedules.make(config, num_steps, batch_size, group)
  if found := groups.parse(config.groups):
    return groups.make(found, config, rate, optimizers.make)
  tx = optimizers.make(rate, config)
  if not config.clip_norm:
    return tx
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)


def schedule(
  config: ConfigDict,
  num_steps: int,
  batch_size: int = schedules.RATED_BATCH,
  group: str = 'optimizer',
) -> optax.Schedule:
  """The learning rate by step as used by `make`, for logging."""
  return schedules.make(complete(config, group), num_steps, batch_size, group)


def complete(config: ConfigDict, group: str = 'optimizer') -> ConfigDict:
  """The checked config with every key; `group` is its name."""
  values = dict(config)
  unknown = [
    UserError(
      f'config.{group}.{key} is unknown{did_you_mean(key, KEYS)}',
      key=f'{group}.{key}',
      allowed=tuple(KEYS),
    )
    for key in sorted(set(values) - set(KEYS))
  ]
  if found := [*unknown, *problems(values, KEYS, f'{group}.')]:
    raise joined(found)
  return ConfigDict({name: key.default for name, key in KEYS.items()} | values)
