"""What a training run holds, and where it all lies.

`plan` is made before anything is allocated: the same shapes and shardings
initialise a run, restore it on another number of devices, and compile its step
for chips that are not there.

    what init makes = params (they train) + extra (losses renew it) + base

State, average and moments hold what trains; `base` is the rest of a run with
config.trainable, made anew at each start and never saved.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
import optax

from sana_jax.errors import UserError
from sana_jax.objectives.base import Objective, Player
from sana_jax.optim import ema as averages
from sana_jax.optim import freezing
from sana_jax.sharding import rules
from sana_jax.typing import DType, Params, PRNGKeyArray, PyTree

Optimizers = Mapping[str, optax.GradientTransformation]  # By player.


class PlayerState(NamedTuple):
  """What a player keeps of its updates."""

  opt_state: Any
  skipped: Any  # Updates that were not finite and left no trace, ...
  skipped_in_a_row: Any  # ... and how many of them were the last ones.


class TrainState(NamedTuple):
  """Everything that a step changes; saved and restored as a whole."""

  step: Any  # Steps taken so far, those with skipped updates included.
  params: Any  # What trains.
  ema: Any  # Averaged params, or None for a run that keeps no average.
  players: dict[str, PlayerState]
  extra: Any  # Of Objective.extra.

  @property
  def weights(self) -> Any:
    """What is sampled from and exported: the average where there is one."""
    return self.params if self.ema is None else self.ema

  @property
  def skipped(self) -> Any:
    """Skipped updates of the player that has most."""
    return _most(p.skipped for p in self.players.values())

  @property
  def skipped_in_a_row(self) -> Any:
    """The same of the last ones in a row."""
    return _most(p.skipped_in_a_row for p in self.players.values())


class Frozen(NamedTuple):
  """What a step reads and never changes."""

  inputs: PyTree = {}  # The task's: an encoder, cached embeddings.
  base: Params = {}  # Parameters that do not train.


class Plan(NamedTuple):
  """Where a run lies, and what makes it.

  Attributes:
    state, base: ShapeDtypeStructs with shardings.
    init: (rng, given={}) -> the first state. `given` are parts of the
      parameters by their names, which are then not drawn.
    make_base: (rng, given={}) -> the base, float32.
  """

  state: TrainState
  base: Params
  init: Callable[..., TrainState]
  make_base: Callable[..., Params]


def plan(
  objective: Objective,
  optimizers: Optimizers,
  mesh: Mesh | AbstractMesh,
  *,
  average: bool = True,
  param_dtype: DType = jnp.float32,
  trainable: str = '',
) -> Plan:
  """Of a run; nothing is allocated, and the mesh's chips need not be there.

  The params are stored as `param_dtype`; average, moments and base are float32.
  `trainable` are the patterns of what trains (see freezing.py). Raises
  RuleError if the objective's rules do not fit the parameters.
  """

  def init(rng, given=None):
    params, extra, _ = parts(
      objective, {**objective.init(rng), **(given or {})}, trainable
    )
    zero = jnp.zeros((), jnp.int32)
    players = {
      player.name: PlayerState(
        optimizers[player.name].init(own(params, [player])[0]), zero, zero
      )
      for player in objective.players
    }
    ema = averages.init(params) if average else None
    return TrainState(
      zero, optax.tree.cast(params, param_dtype), ema, players, extra
    )

  def make_base(rng, given=None):
    return parts(
      objective, {**objective.init(rng), **(given or {})}, trainable
    )[2]

  whole = jax.eval_shape(objective.init, jax.random.key(0))
  places = rules.shardings(whole, objective.rules, mesh)
  params, _, base = parts(objective, whole, trainable)
  check_players(objective.players, params, trainable)
  lie, extra_lies, base_lies = parts(objective, places, trainable)
  everywhere = NamedSharding(mesh, jax.P())
  shardings = TrainState(
    everywhere,
    lie,
    lie if average else None,
    _players_lie(objective.players, optimizers, params, lie, mesh),
    extra_lies,
  )
  state = jax.eval_shape(init, jax.random.key(0))
  return Plan(
    with_shardings(state, shardings),
    with_shardings(base, base_lies),
    jax.jit(init, out_shardings=shardings),
    jax.jit(make_base, out_shardings=base_lies)
    if base
    else (lambda rng, given=None: {}),
  )


def _players_lie(players, optimizers, params, lie, mesh):
  """Shardings of what the players keep, from those of the parameters."""
  everywhere = NamedSharding(mesh, jax.P())
  return {
    player.name: PlayerState(
      rules.state_shardings(
        optimizers[player.name],
        *(own(tree, [player])[0] for tree in (params, lie)),
        mesh,
      ),
      everywhere,
      everywhere,
    )
    for player in players
  }


def parts(
  objective: Objective,
  params: Params,
  trainable: str,
) -> tuple[Params, Params, Params]:
  """(what trains, what losses renew, the base) of all parameters."""
  extra = {}
  if objective.extra:
    extra, params = freezing.split(params, objective.extra)
  params, base = freezing.split(params, trainable)
  return params, extra, base


def own(params: Params, players: Sequence[Player]) -> tuple[Params, Params]:
  """(the parameters of these players, all others)."""
  patterns = [player.trains for player in players]
  return freezing.split(
    params, ' '.join(patterns) if all(patterns) else '', strict=False
  )


def whole(params: Params, extra: Params, base: Params) -> Params:
  """The inverse of `parts`: all parameters, as losses and exports see them."""
  return freezing.join(freezing.join(params, base), extra)


def check_players(
  players: Sequence[Player], params: Params, trainable: str
) -> None:
  """Raises UserError where a player has nothing to train.

  Raises ValueError for parameters that are not of exactly one player.
  """
  sizes = {p.name: len(jax.tree.leaves(own(params, [p])[0])) for p in players}
  if idle := [name for name, size in sizes.items() if not size]:
    raise UserError(
      f'config.trainable={trainable!r} leaves {" and ".join(idle)} nothing '
      'to train; add some of its parameters.'
    )
  if sum(sizes.values()) != len(jax.tree.leaves(params)):
    raise ValueError(f'players must share out all parameters: {sizes}')


def with_shardings(tree: PyTree, shardings: PyTree) -> PyTree:
  """The ShapeDtypeStructs of `tree`, each with its sharding."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def first_key(seed: int) -> PRNGKeyArray:
  """The key of a run's first parameters, its base included."""
  return jax.random.split(jax.random.key(seed))[0]


def _most(counts):
  first, *others = counts
  for count in others:
    first = jnp.maximum(first, count)
  return first
