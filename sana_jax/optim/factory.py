"""The optimizer from its config: clipping, then the named one with a schedule.

A learning rate and a weight decay mean the same for every name: the rate is
absolute, and the decay is decoupled, times the rate, on every leaf.
"""

import jax
from ml_collections import ConfigDict
import optax

from sana_jax.errors import UserError
from sana_jax.optim import schedules
from sana_jax.optim.came import came, is_stacked
from sana_jax.optim.came_8bit import came_8bit
from sana_jax.typing import PyTree

# What a config may leave out. It must have name and learning_rate.
DEFAULTS = {
  'auto_lr': '',  # See schedules.RATE_RULES.
  'schedule': 'constant',
  'warmup_steps': 0,
  'decay_fraction': 0.3,  # Of the run; see the schedules that have it.
  'final_scale': 0.1,  # cosine_decay_to_constant ends at this times the rate.
  'weight_decay': 0.,
  'b1': 0.9,  # Decay of the momentum; of adam's, where muon leaves it a leaf.
  'b2': 0.999,  # Decay of the second moment; adafactor has its own rule.
  'clip_norm': 0.,  # Of the whole gradient; 0 is off.
}


def make(
    config: ConfigDict, num_steps: int,
    batch_size: int = schedules.RATED_BATCH, group: str = 'optimizer',
) -> optax.GradientTransformation:
  """The whole optimizer of a run.

  Args:
    config: name, learning_rate, and what differs from `DEFAULTS`.
    num_steps: of the run.
    batch_size: over all devices, for `auto_lr`.
    group: of the whole config that this is, for errors.

  Raises:
    UserError: if a key or a name is unknown or a value is out of range.
  """
  config = _complete(config, group)
  rate = schedules.make(config, num_steps, batch_size, group)
  tx = OPTIMIZERS[config.name](rate, config)
  if not config.clip_norm:
    return tx
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)


def schedule(
    config: ConfigDict, num_steps: int,
    batch_size: int = schedules.RATED_BATCH, group: str = 'optimizer',
) -> optax.Schedule:
  """The learning rate by step, as `make` uses it: for logs."""
  return schedules.make(_complete(config, group), num_steps, batch_size, group)


def muon_dimensions(params: PyTree) -> PyTree:
  """Which axes muon takes for rows and columns; None where it leaves a leaf.

  Matrices are themselves, convolutions HWIO are (h w i, o), and a leading layer
  axis counts matrices. Depthwise kernels, biases, norms, tables and embeddings
  are left to adam.
  """
  def dimensions(path, p):
    first = int(is_stacked(path))
    name = jax.tree_util.keystr(path[-1:], simple=True)
    if name != 'kernel' or p.ndim - first not in (2, 4):
      return None
    last = p.ndim - 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(first, last)), last)
  return jax.tree_util.tree_map_with_path(dimensions, params)


def _adafactor(rate, c):
  # optax's own weight decay is not multiplied by the rate, and its default
  # scales the rate by each parameter's size.
  return optax.adafactor(
    rate, multiply_by_parameter_scale=False, momentum=c.b1,
    weight_decay_rate=lambda step: c.weight_decay * rate(step))


def _muon(rate, c):
  # Updates of root mean square 0.2 let AdamW's rates serve (2502.16982).
  return optax.contrib.muon(
    rate, weight_decay=c.weight_decay, consistent_rms=0.2, adam_b1=c.b1,
    adam_b2=c.b2, adam_weight_decay=c.weight_decay,
    muon_weight_dimension_numbers=muon_dimensions)


OPTIMIZERS = {
  'came': lambda rate, c: came(
    rate, c.b1, c.b2, weight_decay=c.weight_decay),
  'came_8bit': lambda rate, c: came_8bit(
    rate, c.b1, c.b2, weight_decay=c.weight_decay),
  'came_8bit_rows': lambda rate, c: came_8bit(
    rate, c.b1, c.b2, weight_decay=c.weight_decay, blocks='rows'),
  'adamw': lambda rate, c: optax.adamw(
    rate, c.b1, c.b2, weight_decay=c.weight_decay),
  'muon': _muon,
  'adafactor': _adafactor,
  'lion': lambda rate, c: optax.lion(
    rate, c.b1, c.b2, weight_decay=c.weight_decay),
}


def _complete(config, group):
  unknown = sorted(set(config) - set(DEFAULTS) - {'name', 'learning_rate'})
  if unknown:
    raise UserError(
      f'The optimizer config has unknown keys {", ".join(unknown)}; allowed '
      f'are name, learning_rate, {", ".join(DEFAULTS)} (key: {group}).')
  config = ConfigDict({**DEFAULTS, **config})
  if config.get('name') not in OPTIMIZERS:
    raise UserError(
      f'The optimizer is {config.get("name")!r}; allowed are '
      f'{", ".join(OPTIMIZERS)} (key: {group}.name).')
  for key, (allowed, ok) in _RANGES.items():
    value = config.get(key)
    if not isinstance(value, (int, float)) or not ok(value):
      raise UserError(
        f'{group}.{key} is {value!r}; allowed is {allowed} '
        f'(key: {group}.{key}).')
  return config


_RANGES = {
  'learning_rate': ('a number above 0', lambda v: v > 0),
  'decay_fraction': ('a number in (0, 1]', lambda v: 0 < v <= 1),
  'final_scale': ('a number in [0, 1]', lambda v: 0 <= v <= 1),
  'weight_decay': ('a number of at least 0', lambda v: v >= 0),
  'b1': ('a number in [0, 1)', lambda v: 0 <= v < 1),
  'b2': ('a number in [0, 1)', lambda v: 0 <= v < 1),
  'clip_norm': ('a number of at least 0', lambda v: v >= 0),
}
