"""One update of a TrainState, and what runs it on a mesh.

    g = d loss / d params,  params += tx(g),  ema += (1 - decay)(params - ema)

where `params` are those that train; the others only take part in the loss.
A loss or gradient that is not finite changes nothing but the counters: the
data and the randomness move on, params, average and optimizer stay.
"""

from collections.abc import Callable
import contextlib
import functools
import time

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import optax

from sana_jax.errors import in_memory
from sana_jax.optim import ema as averages
from sana_jax.optim import freezing, stochastic_rounding
from sana_jax.sharding.activations import constrain
from sana_jax.sharding.mesh import batch_rows, place_rows
from sana_jax.training import norms, phases
from sana_jax.training.levels import Levels
from sana_jax.training.state import Metrics, Objective, Task, TrainState
from sana_jax.typing import Array, Keys, PRNGKeyArray, PyTree


def train_step(
    state: TrainState, frozen: PyTree, batch: PyTree, rng: PRNGKeyArray, *,
    task: Objective, tx: optax.GradientTransformation, ema_decay: float,
    accumulate: int = 1, trainable: str = '',
) -> tuple[TrainState, Metrics]:
  """The next state, and the metrics of this step.

  The step's randomness is `fold_in(rng, step)`, so a resumed run needs no saved
  key. `accumulate` cuts the batch into so many parts, one after the other, with
  the same result for less memory. `trainable` is as in `plan`. Metrics are the
  task's and loss, grad_norm, grad_norm/PART (of what trains), param_norm,
  skipped and skipped_in_a_row.
  """
  rng = jax.random.fold_in(rng, state.step)
  rngs = jax.random.split(rng, jax.tree.leaves(batch)[0].shape[0])
  old, still = freezing.split(state.params, trainable)
  (loss, scalars), grads = gradients(
      task, old, {**frozen, 'step': state.step}, batch, rngs, accumulate, still)
  grad_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

  updates, opt_state = tx.update(grads, state.opt_state, _wide(old))
  params = stochastic_rounding.apply_updates(old, updates, rng)
  average = old_average = None
  if state.ema is not None:
    old_average, still_average = freezing.split(state.ema, trainable)
    average = averages.update(
        old_average, params, ema_decay, state.step - state.skipped)

  params, average, opt_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, average, opt_state), (old, old_average, state.opt_state))
  params = freezing.join(params, still)
  if average is not None:
    average = freezing.join(average, still_average)
  missed = (~finite).astype(jnp.int32)
  state = TrainState(
      state.step + 1, params, average, opt_state, state.skipped + missed,
      (state.skipped_in_a_row + 1) * missed)
  return state, {
      **scalars, **norms.by_part(grads, 'grad_norm'), 'loss': loss,
      'grad_norm': grad_norm, 'param_norm': optax.tree.norm(_wide(params)),
      'skipped': state.skipped,
      'skipped_in_a_row': state.skipped_in_a_row}


def gradients(
    task: Objective, params: PyTree, frozen: PyTree, batch: PyTree,
    rngs: Keys, accumulate: int, still: PyTree | None = None,
) -> tuple[tuple[Array, Metrics], PyTree]:
  """`((loss, scalars), gradients)`, means over the parts of the batch.

  Gradients are float32, also of bfloat16 params: sums and norms need it. There
  are none of `still`, the params that do not train.
  """
  def loss(params, *args):
    return task.loss(freezing.join(params, still or {}), *args)

  def gradient(*args):
    found, grads = jax.value_and_grad(loss, has_aux=True)(*args)
    return found, _wide(grads)
  if accumulate == 1:
    return gradient(params, frozen, batch, rngs)
  parts = jax.tree.map(functools.partial(_cut, accumulate), (batch, rngs))
  first = jax.tree.map(lambda x: x[0], parts)
  shapes = jax.eval_shape(gradient, params, frozen, *first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  def add(total, part):
    return jax.tree.map(
        jnp.add, total, gradient(params, frozen, *part)), None
  total, _ = jax.lax.scan(add, zeros, parts)
  # All are means, but for Levels, which are sums.
  return jax.tree.map(
      lambda x: x if isinstance(x, Levels) else x / accumulate, total,
      is_leaf=lambda x: isinstance(x, Levels))


# What a user can do about a step that is too large.
_SMALLER = (
    'lower batch_size, raise accumulate_steps, set model.remat=full, or split '
    'the state with --layout fsdp; `sana-jax plan` says what fits.')
_wide = functools.partial(optax.tree.cast, dtype=jnp.float32)


def _cut(count, x):
  """[b ...] to [count b/count ...]: every device keeps rows that it has."""
  x = jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)
  return constrain(x, None, 'batch', *[None] * (x.ndim - 2))


def jit_step(
    shapes: TrainState, mesh: Mesh, *, task: Objective,
    tx: optax.GradientTransformation, ema_decay: float, accumulate: int = 1,
    trainable: str = '',
):
  """`train_step` under jit: the state is donated and stays where it lies."""
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(
      functools.partial(
          train_step, task=task, tx=tx, ema_decay=ema_decay,
          accumulate=accumulate, trainable=trainable),
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
      batch_size: int, accumulate: int = 1, trainable: str = '',
      phase: Callable = contextlib.nullcontext,  # Of its name: see phases.py.
  ):
    self._jitted = jit_step(
        shapes, mesh, task=task, tx=tx, ema_decay=ema_decay,
        accumulate=accumulate, trainable=trainable)
    self._place = functools.partial(
        place_rows, rows=batch_rows(mesh, batch_size), mesh=mesh,
        batch_size=batch_size)
    self._frozen, self._rng = replicate((task.frozen, rng), mesh)
    self._compiled, self._phase = {}, phase

  def __call__(
      self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
    batch = self._place(batch)
    args = state, self._frozen, batch, self._rng
    key = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
    if key in self._compiled:
      return self._run(key, args)
    with in_memory(_SMALLER):
      with self._phase(phases.COMPILE):
        self._compiled[key] = self._compile(*args)
      # What does not fit may say so only when it is awaited.
      return jax.block_until_ready(self._run(key, args))

  def _run(self, key, args):
    with jax.transfer_guard('disallow'):
      return self._compiled[key](*args)

  def _compile(self, *args):
    began = time.monotonic()
    compiled = self._jitted.lower(*args).compile()
    logging.info('Compiled the step in %.1f s; %s.', time.monotonic() - began,
                 memory(compiled))
    return compiled


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
