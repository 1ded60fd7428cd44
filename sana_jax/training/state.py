"""State of a training run, and its shapes and shardings.

`plan` needs no allocation: the same shapes and shardings initialize a run,
restore it on another number of devices, and compile its step for chips that are
not present.

    Objective.init = params (trainable) + extra (updated by losses) + base

Params, EMA and moments hold trainable parameters only; `base` holds the frozen
ones of a run with config.trainable, rebuilt at each start and never saved.
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
  """Optimizer state and update counters of a player."""

  opt_state: Any
  skipped: Any  # Updates skipped because they were not finite, ...
  skipped_in_a_row: Any  # ... and how many of the latest in a row.


class TrainState(NamedTuple):
  """Everything that a step changes; saved and restored together."""

  step: Any  # Steps so far, including those with skipped updates.
  params: Any  # The trainable parameters.
  ema: Any  # EMA of params, or None for a run without.
  players: dict[str, PlayerState]
  extra: Any  # Of Objective.extra.

  @property
  def weights(self) -> Any:
    """Weights for sampling and export: the EMA if there is one."""
    return self.params if self.ema is None else self.ema

  @property
  def skipped(self) -> Any:
    """Skipped updates of the player with the most."""
    return _most(p.skipped for p in self.players.values())

  @property
  def skipped_in_a_row(self) -> Any:
    """Latest consecutive skipped updates of the player with the most."""
    return _most(p.skipped_in_a_row for p in self.players.values())


class Frozen(NamedTuple):
  """Inputs of a step that it never changes."""

  inputs: PyTree = {}  # The task's: an encoder, cached embeddings.
  base: Params = {}  # Frozen parameters.


class Plan(NamedTuple):
  """Shapes and shardings of a run, and its initializers.

  Attributes:
    state, base: ShapeDtypeStructs with shardings.
    init: (rng, given={}) -> the first state. `given` are parts of the
      parameters by name, which replace the initialized ones.
    make_base: (rng, given={}) -> the base. Arrays of `given` that become leaves
      of it are donated: no second copy of a base exists at any time.
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
  """Plan of a run; nothing is allocated, and the mesh may be abstract.

  The params are stored as `param_dtype`; EMA and moments are float32, and so is
  the base, unless the objective has another type for it.
  `trainable` has the patterns of trainable parameters (see freezing.py).
  Raises RuleError if the objective's rules do not fit the parameters.
  """
  trainable = trainable or objective.partial.trainable

  def first(rng, given):
    return objective.partial.completed({**objective.init(rng), **(given or {})})

  def init(rng, given=None):
    params, extra, _ = partition(objective, first(rng, given), trainable)
    zero = jnp.zeros((), jnp.int32)
    players = {
      player.name: PlayerState(
        optimizers[player.name].init(split_players(params, [player])[0]),
        zero,
        zero,
      )
      for player in objective.players
    }
    ema = averages.init(params) if average else None
    return TrainState(
      zero, optax.tree.cast(params, param_dtype), ema, players, extra
    )

  def make_base(rng, given=None):
    base = partition(objective, first(rng, given), trainable)[2]
    return optax.tree.cast(base, objective.partial.base_dtype)

  every = jax.eval_shape(objective.init, jax.random.key(0))
  places = rules.shardings(every, objective.rules, mesh)
  params, _, _ = partition(objective, every, trainable)
  base = jax.eval_shape(make_base, jax.random.key(0))
  check_players(objective.players, params, trainable)
  lie, extra_lies, base_lies = partition(objective, places, trainable)
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
    jax.jit(make_base, out_shardings=base_lies, donate_argnames='given')
    if base
    else (lambda rng, given=None: {}),
  )


def _players_lie(players, optimizers, params, lie, mesh):
  """Shardings of the players' states, from those of the parameters."""
  everywhere = NamedSharding(mesh, jax.P())
  return {
    player.name: PlayerState(
      rules.state_shardings(
        optimizers[player.name],
        *(split_players(tree, [player])[0] for tree in (params, lie)),
        mesh,
      ),
      everywhere,
      everywhere,
    )
    for player in players
  }


def partition(
  objective: Objective,
  params: Params,
  trainable: str,
) -> tuple[Params, Params, Params]:
  """Splits all parameters into (trainable, extra, base)."""
  extra = {}
  if objective.extra:
    extra, params = freezing.split(params, objective.extra)
  params, base = freezing.split(params, trainable)
  return params, extra, base


def split_players(
  params: Params, players: Sequence[Player]
) -> tuple[Params, Params]:
  """Splits parameters into (those of these players, all others)."""
  patterns = [player.trains for player in players]
  return freezing.split(
    params, ' '.join(patterns) if all(patterns) else '', strict=False
  )


def merge(params: Params, extra: Params, base: Params) -> Params:
  """The inverse of `partition`: all parameters, for losses and exports."""
  return freezing.join(freezing.join(params, base), extra)


def check_players(
  players: Sequence[Player], params: Params, trainable: str
) -> None:
  """Raises UserError if a player has no trainable parameters.

  Raises ValueError for parameters that do not belong to exactly one player.
  """
  sizes = {
    p.name: len(jax.tree.leaves(split_players(params, [p])[0])) for p in players
  }
  if idle := [name for name, size in sizes.items() if not size]:
    raise UserError(
      f'config.trainable={trainable!r} leaves {" and ".join(idle)} nothing '
      'to train; add some of its parameters.',
      key='trainable',
      value=trainable,
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
  """Random key of a run's initial parameters, including its base."""
  return jax.random.split(jax.random.key(seed))[0]


def _most(counts):
  first, *others = counts
  for count in others:
    first = jnp.maximum(first, count)
  return first
