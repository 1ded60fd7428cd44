"""Flow matching of a transformer on latents and their text."""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sana_jax.diffusion import flow
from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.objectives.base import Aux, EVERYTHING, Objective, Partial, Player
from sana_jax.objectives.levels import by_level
from sana_jax.sharding.rules import Table
from sana_jax.typing import Array, Bool, Keys, Params, PRNGKeyArray, PyTree


def objective(
  module: nn.Module,
  settings: ConfigDict,
  *,
  init: Callable,
  rules: Table,
  tokens: int,
  encode: Callable = lambda frozen, batch: batch,
  partial: Partial = EVERYTHING,
  split: Callable = lambda params: (params, None),
  whole: Callable = lambda params, frozen: params,
) -> Objective:
  """Objective of `module`, which `Denoiser` can call.

  Args:
    settings: config.flow.
    tokens: length of a caption in the described batches.
    encode: (frozen, batch) -> 'latents', 'text' and 'mask', for batches of
      images or captions. The described batches have all three.
    partial: the trainable part, if that is not everything.
    split: parameters of `init` -> (the module's parameters, its adapters).
    whole: (params, frozen) -> all parameters of `module`.
  """

  def loss(params, frozen, batch, rngs, step):
    del step
    own, adapters = split(params)
    own, batch = whole(own, frozen), encode(frozen, batch)
    return flow_loss(module, settings, own, adapters, frozen, batch, rngs)

  return Objective(
    init,
    rules,
    (Player('model', loss),),
    functools.partial(described_batch, module, tokens),
    functools.partial(null_text, module, tokens),
    partial=partial,
  )


def described_batch(
  module: nn.Module, tokens: int, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch with captions of `tokens` tokens."""
  side = module.sample_size
  latents = (batch_size, side, side, module.in_channels)
  return {
    'latents': jax.ShapeDtypeStruct(latents, jnp.float32),
    **_words(module, (batch_size, tokens), 'text', 'mask'),
  }


def null_text(
  module: nn.Module, tokens: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of the empty prompt's embedding and mask."""
  return _words(module, (tokens,), 'null_text', 'null_mask')


def _words(module, shape, text, mask):
  like, width = jax.ShapeDtypeStruct, module.caption_channels
  return {
    text: like((*shape, width), jnp.dtype(module.dtype)),
    mask: like(shape, jnp.bool_),
  }


def flow_loss(
  module: nn.Module,
  settings: ConfigDict,
  params: Params,
  adapters: PyTree | None,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
) -> tuple[Array, Aux]:
  """Squared error of the velocity at random times, in float32.

  Args:
    settings: config.flow.
    adapters: those of the module's layers, or None.
    frozen: null_text [m e] and null_mask [m], for dropped captions.
    batch: latents [b *p c], text [b m e] and mask [b m]; optionally weights
      [b *p] of the squared errors, and the network's `control`.
    rngs: [b], one for each image's noise, time and dropped caption.
  """
  x0 = batch['latents'].astype(jnp.float32)
  noise, times, drop = jax.vmap(
    functools.partial(draw, settings, x0.shape[1:])
  )(rngs)
  denoiser = Denoiser(module)
  prediction = denoiser(
    params,
    denoiser.path.interpolate(x0, noise, times.t),
    times.t,
    conditions(frozen, batch, drop),
    timestep=times.timestep,
    adapters=adapters,
  )
  error = prediction.velocity() - denoiser.path.target(x0, noise, times.t)
  squared = error**2
  if 'weights' in batch:
    squared *= batch['weights'][..., None]
  of_each = jnp.mean(squared, axis=tuple(range(1, squared.ndim)))
  return jnp.mean(squared), Aux({'loss_by_noise': by_level(of_each, times.t)})


def conditions(
  frozen: PyTree, batch: PyTree, drop: Bool[Array, 'b']
) -> Condition:
  """Captions of a batch, and the empty prompt where they are dropped."""
  # Dropped captions use the empty prompt's mask, as diffusers' sampling does;
  # the official code keeps the caption's.
  return Condition(
    jnp.where(drop[:, None, None], frozen['null_text'], batch['text']),
    jnp.where(drop[:, None], frozen['null_mask'], batch['mask']),
    control=batch.get('control'),
  )


def draw(
  settings: ConfigDict, shape: tuple[int, ...], rng: PRNGKeyArray
) -> tuple[Array, flow.Times, Array]:
  """An image's noise, time, and whether its caption is dropped."""
  noise_rng, time_rng, drop_rng = jax.random.split(rng, 3)
  times = flow.sample_times(
    time_rng,
    1,
    density=settings.density,
    mean=settings.mean,
    std=settings.std,
    shift=settings.shift,
  )
  return (
    jax.random.normal(noise_rng, shape),
    jax.tree.map(lambda t: t[0], times),
    jax.random.bernoulli(drop_rng, settings.caption_dropout),
  )
