"""One update of a TrainState, and what runs it on a mesh.

    g = d loss / d params,  params += tx(g),  ema += (1 - decay)(params - ema)

A loss or gradient that is not finite changes nothing but the counters: the
data and the randomness move on, params, average and optimizer stay.
"""

import functools
import time

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import optax

from sana_jax.optim import ema as averages
from sana_jax.optim import stochastic_rounding
from sana_jax.sharding.mesh import batch_spec
from sana_jax.training.state import Objective, Task, TrainState
from sana_jax.typing import Array, PRNGKeyArray, PyTree

Metrics = dict[str, Array]


def train_step(
    state: TrainState, frozen: PyTree, batch: PyTree, rng: PRNGKeyArray, *,
    task: Objective, tx: optax.GradientTransformation, ema_decay: float,
) -> tuple[TrainState, Metrics]:
  """The next state, and the scalars of this step.

  The step's randomness is `fold_in(rng, step)`, so a resumed run needs no saved
  key. Metrics are the task's and loss, grad_norm, param_norm, skipped and
  skipped_in_a_row.
  """
  rng = jax.random.fold_in(rng, state.step)
  (loss, scalars), grads = jax.value_and_grad(task.loss, has_aux=True)(
      state.params, frozen, batch, rng)
  # f32, also of bf16 parameters: norms and moments need it.
  wide = functools.partial(optax.tree.cast, dtype=jnp.float32)
  grads = wide(grads)
  grad_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

  updates, opt_state = tx.update(grads, state.opt_state, wide(state.params))
  params = stochastic_rounding.apply_updates(state.params, updates, rng)
  average = state.ema
  if average is not None:
    average = averages.update(
        average, params, ema_decay, state.step - state.skipped)

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
      'param_norm': optax.tree.norm(wide(params)), 'skipped': state.skipped,
      'skipped_in_a_row': state.skipped_in_a_row}


def jit_step(
    shapes: TrainState, mesh: Mesh, *, task: Objective,
    tx: optax.GradientTransformation, ema_decay: float,
):
  """`train_step` under jit: the state is donated and stays where it lies."""
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(
      functools.partial(train_step, task=task, tx=tx, ema_decay=ema_decay),
      donate_argnums=0,
      out_shardings=(shardings, NamedSharding(mesh, jax.P())))


class Update:
  """Runs `jit_step` on batches of numpy arrays.

  Compiles once for each shape of batch (aspect-ratio buckets have several) and
  logs what that took. The batch is all that is sent to the devices: an array
  left on the host by mistake raises instead of being sent at each step.
  """

  def __init__(
      self, shapes: TrainState, mesh: Mesh, *, task: Task,
      tx: optax.GradientTransformation, ema_decay: float, rng: PRNGKeyArray,
      batch_size: int,
  ):
    self._jitted = jit_step(shapes, mesh, task=task, tx=tx, ema_decay=ema_decay)
    self._mesh, self._batch_size = mesh, batch_size
    self._frozen, self._rng = replicate((task.frozen, rng), mesh)
    self._compiled = {}

  def __call__(
      self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
    batch = place(batch, self._mesh, self._batch_size)
    args = state, self._frozen, batch, self._rng
    key = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
    if key not in self._compiled:
      self._compiled[key] = self._compile(*args)
    with jax.transfer_guard('disallow'):
      return self._compiled[key](*args)

  def _compile(self, *args):
    began = time.monotonic()
    compiled = self._jitted.lower(*args).compile()
    logging.info('Compiled the step in %.1f s; %s.', time.monotonic() - began,
                 memory(compiled))
    return compiled


def place(batch: PyTree, mesh: Mesh, batch_size: int) -> PyTree:
  """This process's rows as its part of the `batch_size` rows of all."""
  sharding = NamedSharding(mesh, batch_spec(mesh))
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          sharding, x, (batch_size, *x.shape[1:])), batch)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Every leaf on every device, but for those that lie on the mesh already."""
  # By jit, which takes what device_put refuses to send to other processes.
  copy = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, jax.P()))

  def put(x):
    there = getattr(x, 'sharding', None)
    lies = isinstance(there, NamedSharding) and there.mesh == mesh
    return x if lies else copy(x)
  return jax.tree.map(put, tree)


def memory(compiled: jax.stages.Compiled) -> str:
  """What the compiler says that a device needs."""
  found = compiled.memory_analysis()
  if found is None:
    return 'this backend does not tell how much memory it needs'
  mib = lambda size: f'{size / 2**20:,.1f} MiB'
  return (f'a device needs {mib(found.argument_size_in_bytes)} for the state '
          f'and the batch and {mib(found.temp_size_in_bytes)} to compute')
