"""DiffusionNFT: reinforcement of a flow by the rewards of its own pictures.

    v+ = (1 - beta) v_old + beta v_theta
    v- = (1 + beta) v_old - beta v_theta
    loss = r |v+ - v|^2 + (1 - r) |v- - v|^2                     (2509.16117)

v_old is the policy that drew the pictures, whose latents are noised as in flow
matching; r in [0, 1] is how good a picture is among those of its prompt. Of the
policies, only the adapters differ. Those of v_old are in Objective.extra, and
move towards theta at the last step of each round, so that the pictures of a
round are a function of the state at any of its steps.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.objectives import flow_matching
from sana_jax.objectives.base import Aux, Objective, Partial, Player
from sana_jax.sharding.rules import Table
from sana_jax.typing import Array, Float, Keys, Params, PyTree

OLD = 'old'  # Of the sampling policy's factors beside other parameters.


def objective(
  module: nn.Module,
  settings: ConfigDict,
  policy: ConfigDict,
  *,
  factors: str,
  init: Callable,
  rules: Table,
  tokens: int,
  partial: Partial,
  split: Callable,
) -> Objective:
  """Objective of a module with adapters; see `flow_matching.objective`.

  Args:
    policy: config.nft.
    factors: key of the adapters' factors among the parameters of `init`.
  """

  def with_old(params):
    return params | {OLD: params[factors]}

  def loss(params, frozen, batch, rngs, step):
    model, new = split(current(params))
    _, old = split(sampling(params, factors))
    loss, metrics = nft_loss(
      module, settings, policy.beta, model, new, old, frozen, batch, rngs
    )
    is_last = (step + 1) % policy.round_steps == 0
    moved = lambda old, new: jnp.where(
      is_last, new + policy.old_decay * (old - new), old
    )
    extra = jax.tree.map(moved, params[OLD], params[factors])
    return loss, Aux(metrics, {OLD: jax.lax.stop_gradient(extra)})

  return Objective(
    lambda rng: with_old(init(rng)),
    with_old_rules(rules, factors),
    (Player('model', loss),),
    functools.partial(described_batch, module, tokens),
    functools.partial(flow_matching.null_text, module, tokens),
    extra=f'{OLD}/.*',
    partial=partial._replace(
      completed=lambda params: with_old(partial.completed(params))
    ),
  )


def with_old_rules(rules: Table, factors: str) -> Table:
  """The table with the rows of the factors for those of the old policy, too."""
  start = f'{factors}/'
  return *rules, *(
    (f'{OLD}/{pattern.removeprefix(start)}', spec)
    for pattern, spec in rules
    if pattern.startswith(start)
  )


def current(params: Params) -> Params:
  """Parameters of the policy that trains."""
  return {name: x for name, x in params.items() if name != OLD}


def sampling(params: Params, factors: str) -> Params:
  """Parameters of the policy that draws."""
  return current(params) | {factors: params[OLD]}


def described_batch(
  module: nn.Module, tokens: int, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of drawn latents, with rewards and their weights r."""
  of_each = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
  return flow_matching.described_batch(module, tokens, batch_size) | {
    'reward': of_each,
    'weight': of_each,
  }


def nft_loss(
  module: nn.Module,
  settings: ConfigDict,
  beta: float,
  params: Params,
  adapters: PyTree,
  old: PyTree,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
) -> tuple[Array, dict[str, Array]]:
  """Mean loss over a batch, and the metrics.

  Args:
    settings: config.flow.
    adapters, old: those of v_theta and of v_old.
    batch: see `described_batch`.
    rngs: [b], one for each picture.
  """
  x0 = batch['latents'].astype(jnp.float32)
  noise, times, drop = jax.vmap(
    functools.partial(flow_matching.draw, settings, x0.shape[1:])
  )(rngs)
  condition = flow_matching.conditions(frozen, batch, drop)
  denoiser = Denoiser(module)
  path = denoiser.path

  def velocity(adapters):
    return denoiser(
      params,
      path.interpolate(x0, noise, times.t),
      times.t,
      condition,
      timestep=times.timestep,
      adapters=adapters,
    ).velocity()

  new, old = velocity(adapters), jax.lax.stop_gradient(velocity(old))
  of_each = losses(
    new, old, path.target(x0, noise, times.t), batch['weight'], beta
  )
  return jnp.mean(of_each), {
    'reward': jnp.mean(batch['reward']),
    'distance': jnp.mean((new - old) ** 2),
  }


def losses(
  new: Float[Array, 'b *x'],
  old: Float[Array, 'b *x'],
  target: Float[Array, 'b *x'],
  weight: Float[Array, 'b'],
  beta: float,
) -> Float[Array, 'b']:
  """Loss of each picture, from velocities; |.|^2 is a mean over elements."""

  def error(velocity):
    squared = (velocity - target) ** 2
    return jnp.mean(squared, axis=tuple(range(1, squared.ndim)))

  positive = (1 - beta) * old + beta * new
  negative = (1 + beta) * old - beta * new
  return weight * error(positive) + (1 - weight) * error(negative)


def weights(
  rewards: Float[np.ndarray, 'p k'], clip: float
) -> Float[np.ndarray, 'p k']:
  """r = 1/2 + 1/2 clip((R - mean) / Z, -1, 1) of k pictures of each prompt.

  The mean is that of the prompt, and Z is `clip` standard deviations of the
  differences in the round. Pictures that are all equal have 1/2.
  """
  rewards = np.asarray(rewards, np.float64)
  better = rewards - rewards.mean(axis=1, keepdims=True)
  scale = clip * np.sqrt(np.mean(better**2))
  # Rounding of equal rewards is no preference.
  if scale <= 1e-9 * max(1.0, np.abs(rewards).max()):
    return np.full(rewards.shape, 0.5)
  return 0.5 + 0.5 * np.clip(better / scale, -1, 1)
