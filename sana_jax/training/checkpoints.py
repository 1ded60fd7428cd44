"""Saves and restores a run: its state, its place in the data, its config.

Each checkpoint is an orbax Composite of `state` (arrays, written shard by
shard), `data` (the place in the data, as JSON: the same for all processes,
however many) and `about` (JSON: the config, and checksums of what was saved).
Orbax writes into a temporary folder and renames it, so a half-written
checkpoint has no step number; the checksums catch what happens to files later.
They are sums of the arrays' bits taken on the devices,

    sum_i bits(x_i) (2 i + 1)  mod 2^32,

which no flipped bit leaves unchanged (the weights are odd, so invertible),
which do not depend on how the array is split, and cost no second reading.
"""

import contextlib
import json
import re
import zlib

from absl import logging
from etils import epath
import grain
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from sana_jax.errors import UserError
from sana_jax.training.state import TrainState
from sana_jax.training.workdir import meet
from sana_jax.typing import Array, PyTree


class Checkpoints:
  """The checkpoints of one folder; a context manager that waits at its end."""

  def __init__(
      self, folder: epath.PathLike, config: ml_collections.ConfigDict):
    """Keeps the last `config.keep_checkpoints`; each holds `config` too."""
    self._folder = folder = epath.Path(folder)
    self._config = json.loads(config.to_json())
    with self._errors('opening'):
      self._manager = ocp.CheckpointManager(
          folder, options=ocp.CheckpointManagerOptions(
              preservation_policy=ocp.checkpoint_managers.LatestN(
                  config.keep_checkpoints),
              cleanup_tmp_directories=True))

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self.wait()
    # After an error the manager may hold one of its own; ours came first.
    with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
      self._manager.close()

  def restore(
      self, shapes: TrainState, batches: grain.DatasetIterator,
  ) -> TrainState | None:
    """The newest undamaged state, with `batches` set to its place.

    None if nothing was saved yet. `shapes` carry shardings, which need not be
    those that it was saved with. Damaged checkpoints are renamed to
    damaged_STEP and named in the log; UserError if all are.
    """
    damaged = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      state, damage = self._try(step, shapes, batches)
      if damage is None:
        self._set_aside(damaged, step)
        return state
      damaged[step] = damage
    if damaged:
      step, damage = next(iter(damaged.items()))
      raise UserError(
          f'None of the checkpoints {sorted(damaged)} in {self._folder} can be '
          f'restored (step {step}: {damage}); choose another --workdir.')
    return None

  def save(
      self, step: int, state: TrainState, batches: grain.DatasetIterator,
  ) -> None:
    """Saves in the background, unless this step is there already.

    Raises UserError if this save or the one before it failed.
    """
    if step == self._manager.latest_step():
      return
    with self._errors('saving to'):
      about = {
          'config': self._config, 'state': _sums(state).tolist(),
          'data': _data_sum(batches)}
      self._manager.save(step, force=True, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          data=ocp.args.JsonSave(batches.get_state()),
          about=ocp.args.JsonSave(about)))

  def check(self) -> None:
    """Raises UserError if a save in the background has failed."""
    with self._errors('saving to'):
      self._manager.check_for_errors()

  def wait(self) -> None:
    """Returns when all is saved; raises UserError if it cannot be."""
    with self._errors('saving to'):
      self._manager.wait_until_finished()

  def newest(self) -> epath.Path | None:
    """The folder of the last one that is whole, once no save is under way."""
    with contextlib.suppress(UserError):  # There was another error before.
      self.wait()
    steps = self._steps()
    return self._folder / str(max(steps)) if steps else None

  def _steps(self) -> list[int]:
    return [int(p.name) for p in self._folder.glob('*') if p.name.isdigit()]

  def _try(self, step, shapes, batches):
    """`(state, None)`, or `(None, what is wrong)` for all processes alike."""
    damage = state = None
    try:
      got = self._manager.restore(step, args=ocp.args.Composite(
          state=ocp.args.StandardRestore(shapes),
          data=ocp.args.JsonRestore(), about=ocp.args.JsonRestore()))
      state, about = got.state, got.about
      batches.set_state(got.data)
      if _sums(state).tolist() != about['state']:
        damage = 'the arrays differ from what was saved'
      if _data_sum(batches) != about['data']:
        damage = 'the place in the data differs from what was saved'
    # A damaged file shows as whatever the reader trips over, from OSError to
    # JSON, zstd and XLA errors.
    except Exception as error:  # noqa: BLE001
      damage = _brief(error)
    if any(_gather(int(damage is not None))):
      return None, damage or 'damaged for another process'
    return state, None

  def _set_aside(self, damaged: dict[int, str], instead: int) -> None:
    """Frees the numbers of damaged steps, so that they are saved again."""
    for step, damage in damaged.items():
      logging.warning(
          'The checkpoint of step %d in %s is damaged (%s): using step %d, '
          'kept as damaged_%d.', step, self._folder, damage, instead, step)
      target = self._folder / f'damaged_{step}'
      if jax.process_index() == 0:
        if target.exists():
          target.rmtree()
        (self._folder / str(step)).rename(target)
    if damaged:
      meet('damaged checkpoints are set aside')
      self._manager.reload()

  @contextlib.contextmanager
  def _errors(self, doing: str):
    """Failures of the disk, whatever their type, as one sentence."""
    failure = None
    try:
      yield
    except Exception as error:  # noqa: BLE001
      failure = _brief(error)
    # Raised out here, without the error as its context: that would keep orbax's
    # unfinished writes alive until Python exits.
    if failure is not None:
      steps = self._steps()
      intact = f'step {max(steps)} is intact' if steps else 'nothing is saved'
      raise UserError(
          f'{doing.capitalize()} {self._folder} failed ({failure}), {intact}: '
          'see to space and permissions there and start again, or choose '
          'another --workdir.')


@jax.jit
def _sums(state: PyTree) -> Array:
  """A checksum for each leaf, the same however the leaf is split."""
  def leaf_sum(x):
    if x.dtype == bool:
      x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8*x.itemsize}'))
    weight = jnp.uint32(0)
    for axis, size in enumerate(x.shape):  # The index in row-major order.
      weight = weight * jnp.uint32(size) + jax.lax.broadcasted_iota(
          jnp.uint32, x.shape, axis)
    return jnp.sum(bits.astype(jnp.uint32) * (2*weight + 1), dtype=jnp.uint32)
  return jnp.stack([leaf_sum(x) for x in jax.tree.leaves(state)])


def _data_sum(batches: grain.DatasetIterator) -> int:
  """A checksum of the iterator's place."""
  state = json.dumps(batches.get_state(), sort_keys=True)
  return zlib.crc32(state.encode())


def _gather(number: int) -> list[int]:
  """The number of every process, in their order."""
  if jax.process_count() == 1:
    return [number]
  return multihost_utils.process_allgather(np.uint32(number)).tolist()


def _brief(error: Exception) -> str:
  """An error in a few words: the system's own where it is from the system."""
  text = str(error).strip() or type(error).__name__
  if system := re.search(r'OS error \d+: \w+ ([^\]]+)', text):
    return system[1]  # Tensorstore tells the whole way to it.
  return text.splitlines()[0][:200]
