"""Diffusion-DPO of adapters, on pairs of latents of one prompt (2311.12908).

    e(x) = |v - v_theta(x_t)|^2 - |v - v_ref(x_t)|^2
    loss = -log sigmoid(-beta (e(chosen) - e(rejected)))

Both latents of a pair have the same noise and time, v_ref is the model without
its adapters, and |.|^2 is a mean over the elements of the latents. The authors'
code has a factor of one half, so that its beta of 5000 is 2500 here.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.objectives import flow_matching
from sana_jax.objectives.base import Aux, Objective, Partial, Player
from sana_jax.objectives.levels import by_level
from sana_jax.sharding.rules import Table
from sana_jax.typing import Array, Float, Keys, Params, PyTree

CHOSEN, REJECTED = 0, 1  # Places in a pair.


def objective(
  module: nn.Module,
  settings: ConfigDict,
  beta: float,
  *,
  init: Callable,
  rules: Table,
  tokens: int,
  partial: Partial,
  split: Callable,
  encode: Callable = lambda frozen, batch: batch,
) -> Objective:
  """Objective of a module with adapters; see `flow_matching.objective`.

  Args:
    encode: (frozen, batch) -> 'latents' [b 2 *p c], 'text' and 'mask'.
  """

  def loss(params, frozen, batch, rngs, step):
    del step
    return dpo_loss(
      module,
      settings,
      beta,
      *split(params),
      frozen,
      encode(frozen, batch),
      rngs,
    )

  return Objective(
    init,
    rules,
    (Player('model', loss),),
    functools.partial(described_batch, module, tokens),
    functools.partial(flow_matching.null_text, module, tokens),
    partial=partial,
  )


def described_batch(
  module: nn.Module, tokens: int, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of pairs, each with a caption."""
  batch = flow_matching.described_batch(module, tokens, batch_size)
  size, *rest = batch['latents'].shape
  return batch | {
    'latents': jax.ShapeDtypeStruct((size, 2, *rest), jnp.float32)
  }


def dpo_loss(
  module: nn.Module,
  settings: ConfigDict,
  beta: float,
  params: Params,
  adapters: PyTree,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
) -> tuple[Array, Aux]:
  """Mean loss over the pairs, and the share whose order is right.

  Args:
    settings: config.flow.
    batch: latents [b 2 *p c], the chosen ones first, text [b m e], mask [b m].
    rngs: [b], one for each pair.
  """
  pairs = batch['latents'].astype(jnp.float32)
  noise, times, drop = jax.vmap(
    functools.partial(flow_matching.draw, settings, pairs.shape[2:])
  )(rngs)
  condition = flow_matching.conditions(frozen, batch, drop)
  twice = lambda x: jnp.repeat(x, 2, axis=0)
  noise, times, condition = jax.tree.map(twice, (noise, times, condition))
  x0 = pairs.reshape(-1, *pairs.shape[2:])
  denoiser = Denoiser(module)
  path = denoiser.path

  def errors(adapters):
    predicted = denoiser(
      params,
      path.interpolate(x0, noise, times.t),
      times.t,
      condition,
      timestep=times.timestep,
      adapters=adapters,
    ).velocity()
    squared = (predicted - path.target(x0, noise, times.t)) ** 2
    return jnp.mean(squared, axis=tuple(range(1, x0.ndim))).reshape(-1, 2)

  of_each, margin = losses(
    errors(adapters), jax.lax.stop_gradient(errors(None)), beta
  )
  return jnp.mean(of_each), Aux(
    {
      'loss_by_noise': by_level(of_each, times.t[::2]),
      'right_order': jnp.mean(margin > 0),
    }
  )


def losses(
  errors: Float[Array, 'b 2'], reference: Float[Array, 'b 2'], beta: float
) -> tuple[Float[Array, 'b'], Float[Array, 'b']]:
  """(loss, e(rejected) - e(chosen)) of each pair, from its squared errors."""
  excess = errors - reference
  margin = excess[:, REJECTED] - excess[:, CHOSEN]
  return jax.nn.softplus(-beta * margin), margin
