"""An objective: the parameters, and the players that follow a loss each.

    players take turns at  loss(params, frozen, batch, rngs, step)

Pure: it knows shapes and no files, so that a step can be planned, compiled and
counted where neither data nor weights are at hand.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

from sana_jax.objectives.levels import Levels
from sana_jax.sharding.rules import Table
from sana_jax.typing import Array, Params, PRNGKeyArray, PyTree

Metrics = dict[str, Array | Levels]


class Aux(NamedTuple):
  """What a loss returns beside its value.

  Attributes:
    metrics: for the log. A scalar, or a vector with a number for each layer, is
      a mean over the batch, and the log has those of the steps that it has a
      line for. Levels are sums over the batch, and the log has their means
      since the line before.
    extra: the next values of Objective.extra, or {}.
  """

  metrics: Metrics
  extra: PyTree = {}


# (params, frozen, batch, rngs, step) -> (mean over the batch, Aux). Params are
# all that `init` makes. Each example has a key of its own in `rngs` [b]: its
# draws depend neither on the others nor on how the batch is cut. `step` is how
# many steps were taken before this one.
Loss = Callable[..., tuple[Array, Aux]]


@dataclasses.dataclass(frozen=True)
class Player:
  """An optimizer, and the loss that it follows.

  Players that move at the same step and have the same loss share one backward
  pass; each takes the gradient of its own parameters.

  Attributes:
    trains: patterns of the paths of its parameters, as of optim.freezing; ''
      for all.
    every: it moves at steps where `step % every == offset`.
    optimizer: the group of the config that describes its optimizer.
  """

  name: str
  loss: Loss
  trains: str = ''
  every: int = 1
  offset: int = 0
  optimizer: str = 'optimizer'

  def moves(self, step: int) -> bool:
    """Whether it is its turn when so many steps were taken before."""
    return step % self.every == self.offset

  def turns(self, step: Any) -> Any:
    """How many turns it had in the first `step` steps."""
    return (step + self.every - 1 - self.offset) // self.every


@dataclasses.dataclass(frozen=True)
class Objective:
  """All that a step needs to know; no data is opened for it.

  Attributes:
    init: rng -> parameters; pure, so that it can be jitted and eval_shaped.
    rules: the sharding table of the parameters.
    players: at least one moves at each step.
    batch: batch size -> ShapeDtypeStructs of a batch.
    frozen: () -> ShapeDtypeStructs of the arrays that the loss needs and that
      are no parameters, such as an encoder of the inputs.
    extra: patterns of the paths of parameters without a gradient, whose next
      values the loss returns: statistics of batches, say.
  """

  init: Callable[[PRNGKeyArray], Params]
  rules: Table
  players: tuple[Player, ...]
  batch: Callable[[int], PyTree]
  frozen: Callable[[], PyTree] = dict
  extra: str = ''

  def __post_init__(self):
    period = math.lcm(*(player.every for player in self.players))
    if idle := [s for s in range(period) if not turn(self.players, s)]:
      raise ValueError(f'no player moves at the steps {idle} of {period}')

  @property
  def loss(self) -> Loss:
    """That of the first player."""
    return self.players[0].loss


def turn(players: Sequence[Player], step: int) -> tuple[Player, ...]:
  """Those that move when so many steps were taken before."""
  return tuple(player for player in players if player.moves(step))


def busiest(players: Sequence[Player]) -> tuple[Player, ...]:
  """The turn in which most of them move, for plans and timings."""
  period = math.lcm(*(player.every for player in players))
  return max((turn(players, step) for step in range(period)), key=len)
