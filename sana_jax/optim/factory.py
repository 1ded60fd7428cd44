"""The optimizer from its config: clipping, then the named one with a schedule.

Keys that a config leaves out are at the defaults of `keys.KEYS`.
"""

from ml_collections import ConfigDict
import optax

from sana_jax.errors import did_you_mean, joined, UserError
from sana_jax.keys import problems
from sana_jax.optim import groups, optimizers, schedules
from sana_jax.optim.keys import KEYS


def make(
    config: ConfigDict, num_steps: int,
    batch_size: int = schedules.RATED_BATCH,
) -> optax.GradientTransformation:
  """The whole optimizer of a run.

  Args:
    config: what differs from the defaults.
    num_steps: of the run.
    batch_size: over all devices, for `auto_lr`.

  Raises:
    UserError: if a key or a name is unknown or a value is out of range.
  """
  config = complete(config)
  rate = schedules.make(config, num_steps, batch_size)
  if found := groups.parse(config.groups):
    return groups.make(found, config, rate, optimizers.make)
  tx = optimizers.make(rate, config)
  if not config.clip_norm:
    return tx
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)


def schedule(
    config: ConfigDict, num_steps: int,
    batch_size: int = schedules.RATED_BATCH,
) -> optax.Schedule:
  """The learning rate by step, as `make` uses it: for logs."""
  return schedules.make(complete(config), num_steps, batch_size)


def complete(config: ConfigDict) -> ConfigDict:
  """The config with every key, checked."""
  values = dict(config)
  unknown = [
    UserError(f'config.optimizer.{key} is unknown{did_you_mean(key, KEYS)}',
              key=f'optimizer.{key}', allowed=tuple(KEYS))
    for key in sorted(set(values) - set(KEYS))]
  if found := [*unknown, *problems(values, KEYS, 'optimizer.')]:
    raise joined(found)
  return ConfigDict({name: key.default for name, key in KEYS.items()} | values)
