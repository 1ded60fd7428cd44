"""What optimizers keep, in bytes, and what 8-bit CAME rounds away.

Bytes are of shapes: nothing is allocated. What is lost is measured on the
momentum of CAME after some steps of a block at its full width, with random
latents, captions and initial weights.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from sana_jax import config as configs
from sana_jax import tasks
from sana_jax.errors import UserError
from sana_jax.objectives.base import Objective
from sana_jax.optim import blockwise, factory, optimizers
from sana_jax.optim.came_8bit import is_stored_in_bytes
from sana_jax.typing import Array, Params, PyTree

_SIDE, _TOKENS = 16, 77  # Latents of 512 px, and a caption of usual length.
_EIGHT_BIT = {'elements': 'came_8bit', 'rows': 'came_8bit_rows'}


@dataclasses.dataclass(frozen=True)
class State:
  """Bytes of an optimizer's state for a model."""

  model: str
  optimizer: str
  parameters: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Rounding:
  """One storage of m, over all matrices that are stored in bytes.

  Attributes:
    blocks: of which kind.
    elements: of a block in the mean.
    error: norm of what is lost, relative to the norm of m.
    worst: the same of the worst matrix, called `worst_of`.
    lost: share of elements that are smaller than half a step of their bytes.
    drift: distance to what CAME has trained, relative to how far that went.
  """

  blocks: str
  elements: float
  error: float
  worst: float
  worst_of: str
  lost: float
  drift: float


def states(models: Sequence[str]) -> list[State]:
  """Of each optimizer of the factory, for each of config.SANA_SIZES."""
  found = []
  for model in models:
    shapes = jax.eval_shape(objective_of(model).init, jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(shapes))
    found += [State(model, name, count, _bytes(name, shapes))
              for name in optimizers.OPTIMIZERS]
  return found


def objective_of(model: str, **changes) -> Objective:
  """Of a published transformer; UserError if there is none of that name."""
  if model not in configs.SANA_SIZES:
    raise UserError(f'{model!r} is no size; allowed are '
                    f'{", ".join(configs.SANA_SIZES)}.')
  config = configs.train('sana').unlock()
  config.model = ConfigDict(configs.SANA_SIZES[model] | changes)
  config.inputs.text_length = _TOKENS
  return tasks.objective(config)


def _optimizer(name):
  return factory.make(ConfigDict({
    'name': name, 'learning_rate': 1e-4, 'clip_norm': 0.0}), 1)


def _bytes(name, shapes):
  state = jax.eval_shape(_optimizer(name).init, shapes)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def roundings(model: str, steps: int) -> list[Rounding]:
  """Both kinds of blocks, on one block of the model after some steps."""
  objective = objective_of(model, depth=1, sample_size=_SIDE)
  gradient = _gradient(objective)
  start = jax.jit(objective.init)(jax.random.key(0))
  plain, state = train(gradient, start, 'came', steps)
  went = _distance(plain, start)
  found = []
  for blocks, name in _EIGHT_BIT.items():
    trained, _ = train(gradient, start, name, steps)
    apart = _distance(trained, plain)
    found.append(rounding(state[0].mu, blocks, float(apart / went)))
  return found


@jax.jit
def _distance(params, others):
  return optax.tree.norm(optax.tree.sub(params, others))


def train(
    gradient: Callable[..., Params], params: Params, name: str, steps: int,
) -> tuple[Params, PyTree]:
  """Parameters and state after steps that are the same for each name."""
  tx = _optimizer(name)

  @jax.jit
  def update(grads, params, state):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  state = jax.jit(tx.init)(params)
  for i in range(steps):
    grads = gradient(params, jax.random.key(i))
    params, state = update(grads, params, state)
  return params, state


def _gradient(objective):
  """(params, rng) -> gradient of a random step's loss, jitted."""
  frozen = jax.tree.map(
    lambda x: jnp.ones(x.shape, x.dtype), objective.frozen())
  return jax.jit(lambda params, rng: jax.grad(objective.loss, has_aux=True)(
    params, frozen, _batch(objective, rng), rng[None], 0)[0])


def _batch(objective, rng):
  """One example of random latents and text."""
  batch = objective.batch(1)
  keys = jax.random.split(jax.random.fold_in(rng, 1))
  return {'mask': jnp.ones(batch['mask'].shape, bool), **{
    name: jax.random.normal(key, batch[name].shape)
    for name, key in zip(('latents', 'text'), keys)}}


class _Loss(NamedTuple):
  name: str
  blocks: int
  squared: float  # Of what is lost,
  whole: float  # and of m.
  lost: int  # Elements.
  elements: int


def rounding(mu: PyTree, blocks: str, drift: float = math.nan) -> Rounding:
  """What one storage of this m loses."""
  found = [_loss(name, m, blocks) for name, m in _matrices(mu, blocks)]
  if not found:
    raise UserError('No matrix of this model is large enough for bytes; '
                    'choose a larger one.')
  total = lambda key: sum(getattr(x, key) for x in found)
  worst = max(found, key=lambda x: x.squared / x.whole)
  return Rounding(
    blocks, total('elements') / total('blocks'),
    math.sqrt(total('squared') / total('whole')),
    math.sqrt(worst.squared / worst.whole), worst.name,
    total('lost') / total('elements'), drift)


def _matrices(mu, blocks) -> Iterator[tuple[str, Array]]:
  for path, m in jax.tree_util.tree_leaves_with_path(mu):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    matrix = name.endswith('kernel') and 'depthwise' not in name
    if matrix and is_stored_in_bytes(m.shape, blocks):
      yield name, m


@functools.partial(jax.jit, static_argnums=1)
def _round(m: Array, blocks: str) -> tuple[Any, ...]:
  tile = blockwise.TILES[blocks](m.shape)
  stored = blockwise.quantise(m, tile)
  half = blockwise.dequantise(stored._replace(
    q=jnp.ones_like(stored.q), low=0 * stored.low), tile) / 2
  error = m - blockwise.dequantise(stored, tile)
  return (stored.low.size, jnp.sum(error**2), jnp.sum(m**2),
          jnp.sum(jnp.abs(m) < half))


def _loss(name, m, blocks):
  count, squared, whole, lost = _round(m, blocks)
  return _Loss(name, int(count), float(squared), float(whole), int(lost),
               m.size)
