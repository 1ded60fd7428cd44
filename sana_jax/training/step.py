"""One training step of a TrainState, and its compiled form on a mesh.

    g = d loss / d params,  params += tx(g),  ema += (1 - decay)(params - ema)

for each player whose turn it is, on its own parameters. A loss or gradient that
is not finite changes only a player's counters: the data and the randomness
advance; params, EMA and optimizer state stay.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict
import optax

from sana_jax.errors import explain_out_of_memory
from sana_jax.objectives.base import Aux, Loss, Metrics, Objective, Player, turn
from sana_jax.objectives.levels import Levels
from sana_jax.optim import ema as averages
from sana_jax.optim import freezing, stochastic_rounding
from sana_jax.sharding.activations import constrain
from sana_jax.sharding.mesh import batch_rows, place_rows
from sana_jax.training import norms, timers
from sana_jax.training.state import (
  Frozen,
  merge,
  Optimizers,
  Plan,
  PlayerState,
  split_players,
  TrainState,
)
from sana_jax.typing import Array, DType, Keys, Params, PRNGKeyArray, PyTree


def train_step(
  state: TrainState,
  frozen: Frozen,
  batch: PyTree,
  rng: PRNGKeyArray,
  *,
  players: Sequence[Player],
  optimizers: Optimizers,
  ema_decay: float,
  accumulate: int = 1,
  param_dtype: DType = jnp.float32,
) -> tuple[TrainState, Metrics]:
  """The next state, and the metrics of this step.

  The step's randomness is `fold_in(rng, step)`, so a resumed run needs no saved
  key. Metrics are those of the losses, and loss, grad_norm, grad_norm/PART,
  param_norm (of trainable parameters), skipped and skipped_in_a_row; in a run
  of several players also loss/PLAYER and grad_norm/PLAYER.

  Args:
    players: those whose turn it is.
    accumulate: number of microbatches, computed sequentially, with the same
      result for less memory.
    param_dtype: dtype of the base in the losses, unless it is stored in a
      narrower one.
  """
  rng = jax.random.fold_in(rng, state.step)
  rngs = jax.random.split(rng, jax.tree.leaves(batch)[0].shape[0])
  frozen = frozen._replace(base=_narrow(frozen.base, param_dtype))
  done = [
    _descend(state, frozen, batch, rngs, together, accumulate)
    for together in passes(players)
  ]
  moves = [
    _move(state, player, found, optimizers[player.name])
    for found in done
    for player in found.players
  ]
  old, unchanged = split_players(state.params, players)
  new = stochastic_rounding.apply_updates(
    old, _joined(move.updates for move in moves), rng
  )
  average = state.ema
  if average is not None:
    average = _averaged(state, moves, new, ema_decay)
  finite = _joined(move.finite for move in moves)
  params = freezing.join(jax.tree.map(jnp.where, finite, new, old), unchanged)

  state = TrainState(
    state.step + 1,
    params,
    average,
    state.players | {move.player.name: move.state for move in moves},
    _renewed(state.extra, done),
  )
  grads = _joined(found.grads for found in done)
  return state, {
    **{k: x for found in done for k, x in found.aux.metrics.items()},
    **norms.by_part(grads, 'grad_norm'),
    **_of_players(state, done),
    'loss': sum(found.loss for found in done[1:]) + done[0].loss,
    'grad_norm': optax.tree.norm(grads),
    'param_norm': optax.tree.norm(_wide(params)),
    'skipped': state.skipped,
    'skipped_in_a_row': state.skipped_in_a_row,
  }


def _of_players(state, done):
  """Loss and gradient norm of each player that moved, if there are several."""
  if len(state.players) == 1:
    return {}
  found = {}
  for one in done:
    for player in one.players:
      grads, _ = split_players(one.grads, [player])
      found[f'loss/{player.name}'] = one.loss
      found[f'grad_norm/{player.name}'] = optax.tree.norm(grads)
  return found


class _Pass(NamedTuple):
  """One backward pass, for players that share a loss."""

  players: Sequence[Player]
  loss: Any
  aux: Aux
  grads: Any


class _Move(NamedTuple):
  """Updates and next state of a player; `finite` is per parameter."""

  player: Player
  updates: Any
  finite: Any
  state: PlayerState


def passes(players: Sequence[Player]) -> list[list[Player]]:
  """Groups players with the same loss, which share a backward pass."""
  together = {}
  for player in players:
    together.setdefault(player.loss, []).append(player)
  return list(together.values())


def _descend(state, frozen, batch, rngs, players, accumulate) -> _Pass:
  params, others = split_players(state.params, players)
  (loss, aux), grads = gradients(
    players[0].loss,
    params,
    merge(others, state.extra, frozen.base),
    frozen.inputs,
    batch,
    rngs,
    state.step,
    accumulate,
  )
  return _Pass(players, loss, aux, grads)


def _move(state, player, found, tx) -> _Move:
  """Updates of a player, and its next state, unchanged if not finite."""
  mine = lambda tree: split_players(tree, [player])[0]
  grads, before = mine(found.grads), state.players[player.name]
  finite = jnp.isfinite(found.loss) & jnp.isfinite(optax.tree.norm(grads))
  updates, opt_state = tx.update(
    grads, before.opt_state, _wide(mine(state.params))
  )
  opt_state = _where(finite, opt_state, before.opt_state)
  missed = (~finite).astype(jnp.int32)
  return _Move(
    player,
    updates,
    jax.tree.map(lambda _: finite, grads),
    PlayerState(
      opt_state, before.skipped + missed, (before.skipped_in_a_row + 1) * missed
    ),
  )


def _averaged(state, moves, new, decay):
  """The EMA, updated for the players that moved."""
  moves = [move for move in moves if move.player.in_ema]
  if not moves:
    return state.ema
  old, unchanged = split_players(state.ema, [move.player for move in moves])
  found = []
  for player, _, finite, _ in moves:
    before, params = (split_players(tree, [player])[0] for tree in (old, new))
    count = player.turns(state.step) - state.players[player.name].skipped
    found.append(
      jax.tree.map(
        jnp.where, finite, averages.update(before, params, decay, count), before
      )
    )
  return freezing.join(_joined(found), unchanged)


def _renewed(extra, done):
  """The `extra` that the losses return, for those that are finite."""
  for found in done:
    if found.aux.extra:
      extra = _where(jnp.isfinite(found.loss), found.aux.extra, extra)
  return extra


def _where(condition, new, old):
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _joined(trees):
  return functools.reduce(freezing.join, trees)


def gradients(
  loss: Loss,
  params: Params,
  others: Params,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
  step: Array | int,
  accumulate: int,
) -> tuple[tuple[Array, Aux], PyTree]:
  """`((loss, aux), gradients)`, means over the microbatches.

  Gradients are float32 also for bfloat16 params, for the sake of sums and
  norms. `others` are the remaining parameters of the loss, without gradients.
  """

  def of_own(params, *args):
    return loss(freezing.join(params, others), *args, step)

  def gradient(*args):
    found, grads = jax.value_and_grad(of_own, has_aux=True)(*args)
    return found, _wide(grads)

  if accumulate == 1:
    return gradient(params, frozen, batch, rngs)
  parts = jax.tree.map(functools.partial(_cut, accumulate), (batch, rngs))
  first = jax.tree.map(lambda x: x[0], parts)
  shapes = jax.eval_shape(gradient, params, frozen, *first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  def add(total, part):
    return jax.tree.map(jnp.add, total, gradient(params, frozen, *part)), None

  total, _ = jax.lax.scan(add, zeros, parts)
  # All are means, except Levels, which are sums.
  return jax.tree.map(
    lambda x: x if isinstance(x, Levels) else x / accumulate,
    total,
    is_leaf=lambda x: isinstance(x, Levels),
  )


# What a user can do about a step that is too large.
_SMALLER = (
  'lower batch_size, raise accumulate_steps, set model.remat=full, or split '
  'the state with --layout fsdp; `sana-jax plan` shows what fits.'
)
_wide = functools.partial(optax.tree.cast, dtype=jnp.float32)


def _narrow(tree, dtype):
  """The tree with wider leaves cast to `dtype`; no leaf is widened."""
  size = jnp.dtype(dtype).itemsize
  return jax.tree.map(
    lambda x: x.astype(dtype) if x.dtype.itemsize > size else x, tree
  )


def _cut(count, x):
  """[b ...] to [count b/count ...], without moving rows between devices."""
  x = jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)
  return constrain(x, None, 'batch', *[None] * (x.ndim - 2))


def options(config: ConfigDict, optimizers: Optimizers) -> dict[str, Any]:
  """Arguments of train_step that a config determines, except the players."""
  return dict(
    optimizers=optimizers,
    ema_decay=config.ema_decay,
    accumulate=config.accumulate_steps,
    param_dtype=config.param_dtype,
  )


def jit_step(shapes: TrainState, mesh: Mesh, **options: Any):
  """`train_step` under jit; the state is donated and keeps its shardings."""
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(
    functools.partial(train_step, **options),
    donate_argnums=0,
    out_shardings=(shardings, NamedSharding(mesh, jax.P())),
  )


class Update:
  """Runs `jit_step` on batches of numpy arrays.

  Compiles once per set of players and batch shape (aspect-ratio buckets have
  several) and logs its duration. Only the batch is transferred to the devices:
  any other host array raises instead of being transferred at each step.
  """

  def __init__(
    self,
    plan: Plan,
    mesh: Mesh,
    objective: Objective,
    frozen: Frozen,
    *,
    rng: PRNGKeyArray,
    batch_size: int,
    phase: Callable = contextlib.nullcontext,  # See timers.py.
    **options: Any,  # Of train_step.
  ):
    self._players, self._phase = objective.players, phase
    self._jit = functools.partial(jit_step, plan.state, mesh, **options)
    self._place = functools.partial(
      place_rows,
      rows=batch_rows(mesh, batch_size),
      mesh=mesh,
      batch_size=batch_size,
    )
    self._frozen, self._rng = replicate((frozen, rng), mesh)
    self._compiled = {}

  def __call__(
    self,
    state: TrainState,
    batch: PyTree,
    steps: int,
  ) -> tuple[TrainState, Metrics]:
    """Runs one step, after `steps` previous ones."""
    players, batch = turn(self._players, steps), self._place(batch)
    args = state, self._frozen, batch, self._rng
    key = (
      tuple(player.name for player in players),
      *((x.shape, x.dtype) for x in jax.tree.leaves(batch)),
    )
    if key in self._compiled:
      return self._run(key, args)
    with explain_out_of_memory(_SMALLER):
      with self._phase(timers.COMPILE):
        self._compiled[key] = self._compile(players, args)
      # Running out of memory may raise only when the result is awaited.
      return jax.block_until_ready(self._run(key, args))

  def _run(self, key, args):
    with jax.transfer_guard('disallow'):
      return self._compiled[key](*args)

  def _compile(self, players, args):
    began = time.monotonic()
    compiled = self._jit(players=players).lower(*args).compile()
    logging.info(
      'Compiled the step in %.1f s; %s.',
      time.monotonic() - began,
      memory(compiled),
    )
    return compiled


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Replicates every leaf, except those that are on the mesh already."""
  # By jit, as device_put does not transfer between processes.
  copy = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, jax.P()))

  def put(x):
    sharding = getattr(x, 'sharding', None)
    on_mesh = isinstance(sharding, NamedSharding) and sharding.mesh == mesh
    return x if on_mesh else copy(x)

  return jax.tree.map(put, tree)


def memory(compiled: jax.stages.Compiled) -> str:
  """Text of the compiler's memory analysis, per device."""
  found = compiled.memory_analysis()
  if found is None:
    return 'this backend does not report its memory use'
  mib = lambda size: f'{size / 2**20:,.1f} MiB'
  return (
    f'a device needs {mib(found.argument_size_in_bytes)} for the state '
    f'and the batch and {mib(found.temp_size_in_bytes)} to compute'
  )
