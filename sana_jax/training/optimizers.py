"""The optimizer of each player, from its group of the config."""

from ml_collections import ConfigDict
import optax

from sana_jax.objectives.base import Objective
from sana_jax.optim import factory
from sana_jax.training.state import Optimizers


def make(config: ConfigDict, objective: Objective) -> Optimizers:
  """Optimizer of each player, with a schedule over the player's turns."""
  return {
    player.name: factory.make(*_arguments(config, player))
    for player in objective.players
  }


def schedule(config: ConfigDict, objective: Objective) -> optax.Schedule:
  """The first player's learning rate by its update count, for logging."""
  return factory.schedule(*_arguments(config, objective.players[0]))


def _arguments(config, player):
  return (
    config[player.optimizer],
    player.turns(config.num_steps),
    config.batch_size,
    player.optimizer,
  )
