"""What a training run holds, what a task must offer, and where it all lies.

`plan` is made before anything is allocated: the same shapes and shardings
initialise a run, restore it on another number of devices, and compile its step
for chips that are not there.
"""

from collections.abc import Callable, Sequence
import os
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import optax
from PIL import Image

from sana_jax.optim import ema as averages
from sana_jax.optim import freezing
from sana_jax.sharding import rules
from sana_jax.training.levels import Levels
from sana_jax.typing import Array, DType, Keys, Params, PRNGKeyArray, PyTree

Init = Callable[..., 'TrainState']  # (rng, given={}): see plan.
Metrics = dict[str, Array | Levels]


class TrainState(NamedTuple):
  """Everything that a step changes; saved and restored as a whole."""

  step: Any  # Updates tried so far, skipped ones included.
  params: Any
  ema: Any  # Averaged params, or None for a run that keeps no average.
  opt_state: Any
  skipped: Any  # Updates that were not finite and left no trace, ...
  skipped_in_a_row: Any  # ... and how many of them were the last ones.

  @property
  def weights(self) -> Any:
    """What is sampled from and exported: the average where there is one."""
    return self.params if self.ema is None else self.ema


@runtime_checkable
class Objective(Protocol):
  """All that a step needs to know: a model and its loss."""

  rules: Sequence[tuple[str, tuple]]  # Sharding table of the params.

  def init(self, rng: PRNGKeyArray) -> Params:
    """Fresh params; pure, so that it can be jitted and eval_shaped."""

  def loss(
      self, params: Params, frozen: PyTree, batch: PyTree, rngs: Keys,
  ) -> tuple[Array, Metrics]:
    """The mean loss over the batch, and what is worth a line in the log.

    Each example has a key of its own in `rngs` [b]: what it draws depends
    neither on the others nor on how the batch is cut. In a run, frozen['step']
    is how many updates were tried before this one.

    A scalar, or a vector with a number for each layer, is a mean over the
    batch; the log has those of the steps that it has a line for. Levels are
    sums over the batch; the log has their means since the line before.
    """


@runtime_checkable
class Task(Objective, Protocol):
  """What is trained: an objective, its data, its pictures, its files.

  `frozen` holds the arrays that the loss needs and nobody trains (an encoder,
  cached embeddings). They are an argument of the compiled step and not
  constants in it. A leaf that already is a jax.Array on the run's mesh stays
  as it lies; all others are replicated. `records`, where a task has them, is
  what its batches are drawn from, see agreement.py.
  """

  name: str
  frozen: PyTree

  def batches(
      self, *, seed: int, batch_size: int, rows: Sequence[int],
  ) -> grain.DatasetIterator:
    """These rows of each batch of `batch_size`, as a dict of numpy arrays.

    Endless and deterministic: what stands in which row does not depend on who
    reads which. Its state (`get_state`, `set_state`) is JSON, and the same
    whatever the rows, so that a run goes on with another number of processes.
    """

  def pictures(self, params: Params, step: int) -> Image.Image | None:
    """A grid of samples, or None if there is nothing to show."""

  def export(self, params: Params, folder: os.PathLike) -> None:
    """Writes host arrays `params` as a model folder in diffusers' layout."""


def plan(
    task: Objective, tx: optax.GradientTransformation, mesh: Mesh, *,
    average: bool = True, param_dtype: DType = jnp.float32,
    trainable: str = '',
) -> tuple[Init, TrainState]:
  """The state's jitted initialiser, and its ShapeDtypeStructs with shardings.

  Nothing is allocated, and the mesh may be of chips that are not there. The
  params are stored as `param_dtype`; the average and the moments are float32.
  The initialiser takes a key and, if need be, parts of the params by their
  names, which are then not drawn. `trainable` are the patterns of what trains
  (see freezing.py); moments are kept of that alone.
  Raises RuleError if `task.rules` does not fit the params.
  """
  def init(rng, given=None):
    params = {**task.init(rng), **(given or {})}
    zero = jnp.zeros((), jnp.int32)
    ema = averages.init(params) if average else None
    opt_state = tx.init(freezing.split(params, trainable)[0])
    params = optax.tree.cast(params, param_dtype)
    return TrainState(zero, params, ema, opt_state, zero, zero)

  shapes = jax.eval_shape(init, jax.random.key(0))
  params = rules.shardings(shapes.params, task.rules, mesh)
  everywhere = NamedSharding(mesh, jax.P())
  shardings = TrainState(
      everywhere, params, params if average else None,
      rules.state_shardings(
          tx, *(freezing.split(x, trainable)[0]
                for x in (shapes.params, params)), mesh),
      everywhere, everywhere)
  return jax.jit(init, out_shardings=shardings), with_shardings(
      shapes, shardings)


def with_shardings(tree: PyTree, shardings: PyTree) -> PyTree:
  """The ShapeDtypeStructs of `tree`, each with its sharding."""
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree, shardings)
