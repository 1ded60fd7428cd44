"""Optimizers by name, each built from a rate and a complete config.

Learning rate and weight decay mean the same for every optimizer: the rate is
absolute, and the decay is decoupled, times the rate, on every leaf.
"""

import jax
import optax

from sana_jax.errors import UserError
from sana_jax.optim.came import came, is_stacked
from sana_jax.optim.came_8bit import came_8bit
from sana_jax.typing import PyTree

_CAME = ('came', 'came_8bit', 'came_8bit_rows')
# Settings of some optimizers only; 0 is the optimizer's default.
_ONLY = {'b3': _CAME, 'eps': (*_CAME, 'adamw', 'muon', 'adafactor')}


def make(rate: optax.Schedule, config) -> optax.GradientTransformation:
  """The named optimizer.

  Raises:
    UserError: for a setting that this optimizer does not have.
  """
  for key, names in _ONLY.items():
    if config[key] and config.name not in names:
      raise UserError(
        f'config.optimizer.{key}={config[key]} is no setting of '
        f'{config.name!r}, only of {", ".join(names)}; set it to 0.',
        key=f'optimizer.{key}',
        value=config[key],
        allowed='0',
      )
  return OPTIMIZERS[config.name](rate, config)


def muon_dimensions(params: PyTree) -> PyTree:
  """Row and column axes of each leaf for muon; None for leaves of adam.

  Convolutions HWIO are matrices (h w i, o), and a leading layer axis is a stack
  of matrices. Depthwise kernels, biases, norms, tables and embeddings are
  optimized by adam.
  """

  def dimensions(path, p):
    first = int(is_stacked(path))
    name = jax.tree_util.keystr(path[-1:], simple=True)
    if name != 'kernel' or p.ndim - first not in (2, 4):
      return None
    last = p.ndim - 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(first, last)), last)

  return jax.tree_util.tree_map_with_path(dimensions, params)


def _stated(**settings):
  """The settings given in the config; 0 is the optimizer's default."""
  return {name: value for name, value in settings.items() if value}


def _came(rate, c):
  return came(
    rate,
    c.b1,
    c.b2,
    weight_decay=c.weight_decay,
    **_stated(b3=c.b3, eps1=c.eps),
  )


def _came_8bit(rate, c, blocks='elements'):
  return came_8bit(
    rate,
    c.b1,
    c.b2,
    weight_decay=c.weight_decay,
    blocks=blocks,
    **_stated(b3=c.b3, eps1=c.eps),
  )


def _adafactor(rate, c):
  # optax's own weight decay is not multiplied by the rate, and its default
  # scales the rate by each parameter's size.
  return optax.adafactor(
    rate,
    multiply_by_parameter_scale=False,
    momentum=c.b1,
    weight_decay_rate=lambda step: c.weight_decay * rate(step),
    **_stated(eps=c.eps),
  )


def _muon(rate, c):
  # Updates of root mean square 0.2 allow AdamW's rates (2502.16982).
  return optax.contrib.muon(
    rate,
    weight_decay=c.weight_decay,
    consistent_rms=0.2,
    adam_b1=c.b1,
    adam_b2=c.b2,
    adam_weight_decay=c.weight_decay,
    muon_weight_dimension_numbers=muon_dimensions,
    **_stated(eps=c.eps),
  )


OPTIMIZERS = {
  'came': _came,
  'came_8bit': _came_8bit,
  'came_8bit_rows': lambda rate, c: _came_8bit(rate, c, 'rows'),
  'adamw': lambda rate, c: optax.adamw(
    rate, c.b1, c.b2, weight_decay=c.weight_decay, **_stated(eps=c.eps)
  ),
  'muon': _muon,
  'adafactor': _adafactor,
  'lion': lambda rate, c: optax.lion(
    rate, c.b1, c.b2, weight_decay=c.weight_decay
  ),
}
