"""An objective: the parameters, and the players, each with a loss.

    players take turns at  loss(params, frozen, batch, rngs, step)

It is pure and uses shapes but no files, so that a step can be planned, compiled
and counted without data or weights.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

from sana_jax.objectives.levels import Levels
from sana_jax.sharding.rules import Table
from sana_jax.typing import Array, Params, PRNGKeyArray, PyTree

Metrics = dict[str, Array | Levels]


class Aux(NamedTuple):
  """Auxiliary outputs of a loss.

  Attributes:
    metrics: metrics to log. A scalar, or a vector with a number for each layer,
      is a mean over the batch, logged for the steps that have a log line.
      Levels are sums over the batch, and their means since the last line are
      logged.
    extra: the next values of Objective.extra, or {}.
  """

  metrics: Metrics
  extra: PyTree = {}


# (params, frozen, batch, rngs, step) -> (mean over the batch, Aux). Params are
# all parameters of `init`. Each example has its own key in `rngs` [b]: its
# random numbers depend neither on the others nor on the splitting of the batch.
# `step` is the number of previous steps.
Loss = Callable[..., tuple[Array, Aux]]


@dataclasses.dataclass(frozen=True)
class Player:
  """An optimizer with its loss and its parameters.

  Players that move at the same step and have the same loss share one backward
  pass; each uses the gradient of its own parameters.

  Attributes:
    trains: patterns of the paths of its parameters, see optim.freezing; '' for
      all.
    every: it moves at steps where `step % every == offset`.
    optimizer: the config group of its optimizer.
    in_ema: whether the EMA holds its parameters; not those of a discriminator,
      which no exported model has.
  """

  name: str
  loss: Loss
  trains: str = ''
  every: int = 1
  offset: int = 0
  optimizer: str = 'optimizer'
  in_ema: bool = True

  def moves(self, step: int) -> bool:
    """Whether it moves after `step` previous steps."""
    return step % self.every == self.offset

  def turns(self, step: Any) -> Any:
    """Number of its turns in the first `step` steps."""
    return (step + self.every - 1 - self.offset) // self.every


class Partial(NamedTuple):
  """An objective of which a part is trained by design, such as adapters.

  Attributes:
    trainable: patterns of its trainable parameters, see optim.freezing.
    base_dtype: type in which the frozen ones are stored.
    completed: parameters -> parameters, once those of a model have replaced
      some of `init`; for initial values that depend on them.
  """

  trainable: str = ''
  base_dtype: Any = 'float32'
  completed: Callable[[Params], Params] = lambda params: params


EVERYTHING = Partial()


@dataclasses.dataclass(frozen=True)
class Objective:
  """Parameters, losses and shapes of a training step; no data is opened.

  Attributes:
    init: rng -> parameters; pure, so that it can be jitted and eval_shaped.
    rules: the sharding table of the parameters.
    players: at least one moves at each step.
    batch: batch size -> ShapeDtypeStructs of a batch.
    frozen: () -> ShapeDtypeStructs of the loss's arrays that are not
      parameters, such as an encoder of the inputs.
    extra: patterns of the paths of parameters without a gradient, whose next
      values the loss returns, such as batch statistics.
    frozen_rules: sharding tables of parts of `frozen`; the others are
      replicated.
    partial: the part that trains, unless config.trainable names another.
  """

  init: Callable[[PRNGKeyArray], Params]
  rules: Table
  players: tuple[Player, ...]
  batch: Callable[[int], PyTree]
  frozen: Callable[[], PyTree] = dict
  extra: str = ''
  frozen_rules: Mapping[str, Table] = dataclasses.field(default_factory=dict)
  partial: Partial = EVERYTHING

  def __post_init__(self):
    period = math.lcm(*(player.every for player in self.players))
    if idle := [s for s in range(period) if not turn(self.players, s)]:
      raise ValueError(f'no player moves at the steps {idle} of {period}')

  @property
  def loss(self) -> Loss:
    """The loss of the first player."""
    return self.players[0].loss


def turn(players: Sequence[Player], step: int) -> tuple[Player, ...]:
  """The players that move after `step` previous steps."""
  return tuple(player for player in players if player.moves(step))


def busiest(players: Sequence[Player]) -> tuple[Player, ...]:
  """The turn with the most players, for plans and timings."""
  period = math.lcm(*(player.every for player in players))
  return max((turn(players, step) for step in range(period)), key=len)
