"""Saves and restores a run: its state, its position in the data, its config.

Each checkpoint is an orbax Composite of `state` (arrays, written shard by
shard), `data` (the position in the data, as JSON: the same for any number of
processes) and `about` (JSON: the config, and checksums of what was saved).
Orbax writes into a temporary folder and renames it, so a half-written
checkpoint has no step number; the checksums detect later damage to files.
They are sums of the arrays' bits taken on the devices,

    sum_i bits(x_i) (2 i + 1)  mod 2^32,

which no flipped bit leaves unchanged (the weights are odd, so invertible) and
which do not depend on how the array is split. In the background each checkpoint
is read back, a part by each process, and verified: only then are older ones
deleted. It is verified once more when it is restored.
"""

from collections.abc import Collection
from concurrent import futures
import contextlib
import datetime
import itertools
import json
import os
import re
from typing import Any
import zlib

from absl import logging
from etils import epath
import grain
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from sana_jax.errors import is_out_of_memory, TransientError, UserError
from sana_jax.files import parse_json
from sana_jax.training import checkpoint_files
from sana_jax.training.checksums import checksums
from sana_jax.training.state import TrainState
from sana_jax.training.workdir import all_gather, barrier
from sana_jax.version import __version__


class Checkpoints:
  """Checkpoints of one folder; a context manager that waits on exit."""

  def __init__(
    self,
    folder: epath.PathLike,
    config: ml_collections.ConfigDict,
    base: dict[str, Any] | None = None,
  ):
    """Keeps the last `config.keep_checkpoints` that were read back, and
    permanently those of every `config.keep_every_steps`; each also holds
    `config` and the origin of the `base` (see bases.py).
    """
    self._folder = folder = epath.Path(folder)
    self._about = {
      'version': __version__,
      'layout': checkpoint_files.LAYOUT,
      'base': base,
      'config': parse_json(config.to_json()),
    }
    self._keep = config.keep_checkpoints, config.keep_every_steps
    if os.path.lexists(folder) and not folder.is_dir():
      # Otherwise a run whose disk is not mounted would start over.
      raise UserError(
        f'{folder} is no folder; move away what is there, or check '
        'the disk that a link points to.',
        key='--workdir',
      )
    self._reader = futures.ThreadPoolExecutor(1, 'read back')
    self._saved = self._reading = None  # The last one, until it is read back.
    with self._errors('opening'):
      self._manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
          # Keeps all: see _delete_old.
          preservation_policy=ocp.checkpoint_managers.LatestN(None),
          step_name_format=_Names(),
          cleanup_tmp_directories=True,
        ),
      )

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    try:
      if kind is None:
        self.wait()
    finally:
      self._reader.shutdown()
      # After an error the manager may raise its own; the first one counts.
      with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
        self._manager.close()

  def restore(
    self,
    shapes: TrainState,
    batches: grain.DatasetIterator,
  ) -> TrainState | None:
    """The newest undamaged state, with `batches` set to its position.

    None if nothing was saved yet. `shapes` carry shardings, which may differ
    from those it was saved with. Damaged checkpoints are renamed to
    damaged_STEP and logged. Raises UserError if all are damaged, RuntimeError
    if a device is out of memory.
    """
    damaged = {}
    for step in reversed(checkpoint_files.named(self._folder)):
      state, damage = self._try(step, shapes, batches)
      if damage is None:
        for number, what in damaged.items():
          logging.warning(
            'The checkpoint of step %d in %s is damaged (%s): using step %d, '
            'kept as damaged_%d.',
            number,
            self._folder,
            what,
            step,
            number,
          )
        self._set_aside(damaged)
        return state
      damaged[step] = damage
    if damaged:
      step, damage = next(iter(damaged.items()))
      raise UserError(
        f'None of the checkpoints {sorted(damaged)} in {self._folder} can be '
        f'restored (step {step}: {damage}); choose another --workdir.',
        key='--workdir',
        value=sorted(damaged),
      )
    return None

  def save(
    self,
    step: int,
    state: TrainState,
    batches: grain.DatasetIterator,
    hurry: bool = False,
  ) -> None:
    """Saves in the background, unless this step is already saved.

    With `hurry`, the previous one is not read back first. Raises UserError if
    this save or the previous one failed.
    """
    if step == self.latest_step():
      return
    if hurry:
      self._saved = self._reading = None
    self.wait()
    with self._errors('saving to'):
      about = self._about | {
        'leaves': checkpoint_files.names(state),
        'state': checksums(state).tolist(),
        'data': data_checksum(batches),
      }
      place = batches.get_state()
      self._manager.save(
        step,
        force=True,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          data=ocp.args.JsonSave(place),
          about=ocp.args.JsonSave(about),
        ),
      )
      self._saved = (
        step,
        {checkpoint_files.DATA: place, checkpoint_files.ABOUT: about},
      )

  def check(self) -> None:
    """Raises UserError if a save in the background has failed."""
    with self._errors('saving to'):
      self._manager.check_for_errors()
      if self._saved and not self._manager.is_saving_in_progress():
        self._read_back()

  def wait(self) -> None:
    """Waits until all is saved and read back, and old checkpoints are deleted.

    Raises UserError if saving failed.
    """
    with self._errors('saving to'):
      self._manager.wait_until_finished()
      if self._saved is None:
        return
      self._read_back()
      (step, meant), reading = self._saved, self._reading
      self._saved = self._reading = None
      damage = _compared(
        *reading.result(), meant[checkpoint_files.ABOUT]['state']
      )
      if damage is None:
        self._delete_old()
        return
    logging.warning(
      'The checkpoint of step %d in %s does not read back as it was written '
      '(%s): kept as damaged_%d, and older ones stay; check the disk there.',
      step,
      self._folder,
      damage,
      step,
    )
    self._set_aside([step])

  def newest(self) -> epath.Path | None:
    """Folder of the newest complete checkpoint, after pending saves."""
    with contextlib.suppress(UserError):  # Another error came first.
      self.wait()
    step = self.latest_step()
    return None if step is None else self._folder / str(step)

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint, damaged or not; or None."""
    return max(checkpoint_files.steps(self._folder), default=None)

  def _read_back(self) -> None:
    """Starts reading the last save back, unless that has started."""
    step, meant = self._saved
    self._reading = self._reading or self._reader.submit(
      _part_of,
      self._folder / str(step),
      meant[checkpoint_files.ABOUT]['leaves'],
      meant,
    )

  def _delete_old(self) -> None:
    """Deletes checkpoints older than those to keep, except links."""
    last, every = self._keep
    for step in checkpoint_files.steps(self._folder)[:-last]:
      is_link = os.path.islink(self._folder / str(step))
      if (not every or step % every) and not is_link:
        self._manager.delete(step)

  def _try(self, step, shapes, batches):
    """`(state, None)`, or `(None, reason)`; the same on all processes."""
    if damage := self._damage(step, checkpoint_files.names(shapes)):
      return None, damage
    damage = state = None
    full = False
    try:
      got = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(shapes),
          data=ocp.args.JsonRestore(),
          about=ocp.args.JsonRestore(),
        ),
      )
      state, about = got.state, got.about
      batches.set_state(got.data)
      if checksums(state).tolist() != about['state']:
        damage = 'the arrays differ from what was saved'
      if data_checksum(batches) != about['data']:
        damage = 'the position in the data differs from what was saved'
    # A damaged file raises anything from OSError to JSON, zstd and XLA errors.
    except Exception as error:  # noqa: BLE001
      damage, full = brief(error), is_out_of_memory(str(error))
    useless, full = all_gather([damage is not None, full]).any(axis=0)
    if full:  # The files are intact, and older ones are as large.
      raise RuntimeError(f'Out of memory: {damage or "another process"}')
    if useless:
      return None, damage or 'damaged on another process'
    return state, None

  def _damage(self, step, leaves):
    """Damage of the files of a step, the same on all processes; or None.

    Checked first, as orbax's barriers never return once a process has failed.
    """
    checkpoint = self._folder / str(step)
    try:
      checkpoint_files.check_kinds(checkpoint)
      wanted = checkpoint_files.read_json(checkpoint, checkpoint_files.ABOUT)[
        'state'
      ]
    except Exception as error:  # noqa: BLE001
      return _compared([0] * len(leaves), brief(error), [])
    return _compared(*_part_of(checkpoint, leaves), wanted)

  def _set_aside(self, damaged: Collection[int]) -> None:
    """Renames damaged steps, so that their numbers can be saved again."""
    for step in damaged if jax.process_index() == 0 else ():
      (self._folder / str(step)).rename(self._free_name(step))
    if damaged:
      barrier('damaged checkpoints are set aside')
      self._manager.reload()

  def _free_name(self, step):
    """damaged_STEP, with a numeric suffix if that is taken."""
    taken = {p.name for p in self._folder.iterdir()}
    names = (f'damaged_{step}{f"_{i}" * (i > 1)}' for i in itertools.count(1))
    return self._folder / next(name for name in names if name not in taken)

  @contextlib.contextmanager
  def _errors(self, doing: str):
    """Turns failures of the disk or of another host into a TransientError."""
    failure = None
    try:
      yield
    except Exception as error:  # noqa: BLE001
      failure = brief(error)
    # Raised here, without the error as its context, which would keep orbax's
    # unfinished writes alive until Python exits.
    if failure is not None:
      step = self.latest_step()
      intact = 'nothing is saved' if step is None else f'step {step} is intact'
      raise TransientError(
        f'{doing.capitalize()} {self._folder} failed ({failure}), {intact}: '
        'check space and permissions there and start again, or choose '
        'another --workdir.',
        key='--workdir',
      )


class _Names(ocp.path.step.NameFormat):
  """Finds checkpoints by their names, without reading them.

  Orbax's own format reads a file of each, of any kind, and accepts digits
  other than 0 to 9.
  """

  def build_name(self, step):
    return str(step)

  def find_all(self, base_path):
    folder = epath.Path(base_path)
    return iter(
      [
        _Found(step, folder / str(step))
        for step in checkpoint_files.steps(folder)
      ]
    )

  def find_step(self, base_path, step):
    found = {x.step: x for x in self.find_all(base_path)}
    if step not in found:
      raise ValueError(f'there is no checkpoint of step {step}')
    return found[step]


class _Found(ocp.path.step.Metadata):
  """A checkpoint without a timestamp: which are kept depends only on steps."""

  commit_timestamp = datetime.datetime.min


def data_checksum(batches: grain.DatasetIterator) -> int:
  """Checksum of the iterator's position."""
  state = json.dumps(batches.get_state(), sort_keys=True)
  return zlib.crc32(state.encode())


def _part_of(checkpoint, leaves, meant=None):
  """`(checksums, damage)` of this process's part of the state.

  Process 0, which wrote the other items, compares them with `meant`.
  """
  try:
    expected = meant if meant and jax.process_index() == 0 else {}
    for item, value in expected.items():
      if checkpoint_files.read_json(checkpoint, item) != parse_json(
        json.dumps(value)
      ):
        return [0] * len(leaves), f'{item} differs from what was saved'
    return list(
      checkpoint_files.checksums(
        checkpoint, leaves, jax.process_index(), jax.process_count()
      )
    ), None
  # Tensorstore raises many types.
  except Exception as error:  # noqa: BLE001
    return [0] * len(leaves), brief(error)


def _compared(part, damage, wanted):
  """Damage of a checkpoint, the same on all processes; or None."""
  *sums, damaged = (
    all_gather([*part, damage is not None])
    .sum(axis=0, dtype=np.uint32)
    .tolist()
  )
  if damaged:
    return damage or 'damaged on another process'
  return None if sums == wanted else 'the arrays differ from what was saved'


def brief(error: Exception) -> str:
  """A short message of an error: the system's own for a system error."""
  text = str(error).strip() or type(error).__name__
  if system := re.search(r'OS error \d+: \w+ ([^\]]+)', text):
    return system[1]  # Tensorstore prepends its own call chain.
  return text.splitlines()[0][:200]
