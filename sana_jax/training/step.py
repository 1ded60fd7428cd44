"""One update of a TrainState, and its compiled form.

    g = d loss / d params,   params += tx(g),   ema += (1 - decay) (params - ema)

A loss or gradient that is not finite changes nothing but the counters: the
data and the randomness move on, params, average and optimizer stay.
"""

from collections.abc import Callable
import functools

import jax
from jax.sharding import Mesh, NamedSharding
import jax.numpy as jnp
import optax

from sana_jax.optim import ema as averages
from sana_jax.training.state import Task, TrainState
from sana_jax.typing import Array, PRNGKeyArray, PyTree


def train_step(
    state: TrainState, frozen: PyTree, batch: PyTree, rng: PRNGKeyArray, *,
    task: Task, tx: optax.GradientTransformation, ema_decay: float,
) -> tuple[TrainState, dict[str, Array]]:
  """The next state, and the scalars of this step.

  The step's randomness is `fold_in(rng, step)`, so a resumed run needs no saved
  key. Metrics are the task's and loss, grad_norm, param_norm, skipped and
  skipped_in_a_row.
  """
  rng = jax.random.fold_in(rng, state.step)
  (loss, scalars), grads = jax.value_and_grad(task.loss, has_aux=True)(
      state.params, frozen, batch, rng)
  grad_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  average = state.ema
  if average is not None:
    average = averages.update(average, params, ema_decay, state.step)

  params, average, opt_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, average, opt_state),
      (state.params, state.ema, state.opt_state))
  missed = (~finite).astype(jnp.int32)
  state = TrainState(
      state.step + 1, params, average, opt_state, state.skipped + missed,
      (state.skipped_in_a_row + 1) * missed)
  return state, {
      **scalars, 'loss': loss, 'grad_norm': grad_norm,
      'param_norm': optax.tree.norm(params), 'skipped': state.skipped,
      'skipped_in_a_row': state.skipped_in_a_row}


def jit_step(
    shapes: TrainState, mesh: Mesh, *, task: Task,
    tx: optax.GradientTransformation, ema_decay: float,
) -> Callable:
  """`train_step` under jit: the state is donated and stays where it lies."""
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(
      functools.partial(train_step, task=task, tx=tx, ema_decay=ema_decay),
      donate_argnums=0,
      out_shardings=(shardings, NamedSharding(mesh, jax.P())))
