"""Checkpoints on each host's own disk or in its memory, for a quick restart.

Each process writes the shards of its devices, replicas once, into one
safetensors file of bytes, and reads it if the same process needs the same
shards; the checksums are those of checkpoints.py. A step counts only if it is
undamaged on all processes. Failures of the cache are logged and do not stop
the run, as the workdir has older checkpoints.
"""

from collections.abc import Mapping
from concurrent import futures
import hashlib
import json
import pathlib
import re
import shutil
from typing import Any
import uuid

from absl import logging
from etils import epath
import grain
import jax
import ml_collections
import numpy as np

from sana_jax.data.columns import Columns
from sana_jax.files import atomically, parse_json
from sana_jax.paths import expanded
from sana_jax.training.checkpoint_files import LAYOUT, step_of
from sana_jax.training.checkpoints import brief, data_checksum
from sana_jax.training.checksums import checksums
from sana_jax.training.state import TrainState
from sana_jax.training.workdir import (
  all_gather,
  barrier,
  read_state,
  write_atomically,
)

_ID = re.compile(b'[0-9a-f]{32}')
_KEPT = 2  # A killed process may be a step behind the others.


class LocalCache:
  """The cache of one run; a context manager that waits on exit."""

  def __init__(
    self,
    workdir: epath.Path,
    config: ml_collections.ConfigDict,
    base: dict[str, Any] | None = None,
  ):
    """A cache that does nothing if `config.checkpoint_cache` is empty.

    States of another `base` are not restored: see bases.py.
    """
    self._run = {'layout': LAYOUT, 'base': base}
    self._folder = None
    self._every, self._last = config.cache_every_steps, config.num_steps
    if config.checkpoint_cache:
      run = pathlib.Path(expanded(config.checkpoint_cache)) / _run_id(workdir)
      self._folder = run / (
        f'process_{jax.process_index()}_of_{jax.process_count()}'
      )
    self._writer = futures.ThreadPoolExecutor(1, 'cache')
    self._writing = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._wait()
    self._writer.shutdown()

  def due(self, step: int) -> bool:
    """Whether this step is to be cached."""
    return self._folder is not None and (
      step % self._every == 0 or step == self._last
    )

  def save(
    self,
    step: int,
    state: TrainState,
    batches: grain.DatasetIterator,
  ) -> None:
    """Copies the state to the host and writes it in the background."""
    if self._folder is None:
      return
    about = {
      'step': step,
      'run': self._run,
      'state': checksums(state).tolist(),
      'place': batches.get_state(),
      'data': data_checksum(batches),
    }
    tensors = _shards(state)
    self._wait()
    self._writing = self._writer.submit(self._write, step, tensors, about)

  def restore(
    self,
    shapes: TrainState,
    batches: grain.DatasetIterator,
    at_least: int | None,
  ) -> TrainState | None:
    """The newest state that is complete on every host, or None.

    It is no older than `at_least`, and `batches` are set to its position; with
    None they stay unchanged. Newer files are deleted: this run rewrites them.
    """
    if self._folder is None:
      return None
    state, chosen, before = None, 0, batches.get_state()
    for step in self._common(at_least or 1):
      if (state := self._try(step, shapes, batches)) is not None:
        chosen = step
        logging.info(
          'Step %d is restored from the cache %s.', step, self._folder
        )
        break
      batches.set_state(before)
    for step in self._steps():
      if state is None or step > chosen:
        self._path(step).unlink(missing_ok=True)
    return state

  def clear(self) -> None:
    """Deletes the cache of a finished run."""
    if self._folder is not None:
      self._wait()
      barrier('the cache is written')
      shutil.rmtree(self._folder.parent, ignore_errors=True)

  def _path(self, step):
    return self._folder / f'{step}.safetensors'

  def _steps(self):
    """Steps of the files on this host, the newest first."""
    return sorted(
      (
        step
        for p in self._folder.glob('*.safetensors')
        if (step := step_of(p.stem)) is not None and p.is_file()
      ),
      reverse=True,
    )

  def _common(self, least):
    """Steps that every process has a file of, the newest first."""
    local = [step for step in self._steps() if step >= least][: _KEPT + 1]
    every = all_gather([*local, *[0] * (_KEPT + 1 - len(local))]).tolist()
    common = set.intersection(*map(set, every)) - {0}
    if not common and any(map(any, every)):
      logging.warning(
        'The cache %s has no step that all processes have; using the workdir.',
        self._folder,
      )
    return sorted(common, reverse=True)

  def _try(self, step, shapes, batches):
    """The state of this step, or None, with the reason logged."""
    damage = about = None
    try:
      parts, about = self._read(step)
      if about['run'] != self._run:
        raise ValueError('it has another base or version')
      blocks = _blocks(shapes, parts)
    # A damaged file raises errors of any type.
    except Exception as error:  # noqa: BLE001
      damage = brief(error)
    if self._any_damaged(damage, step):
      return None
    state = jax.tree.unflatten(
      jax.tree.structure(shapes),
      [
        jax.make_array_from_callback(
          leaf.shape,
          leaf.sharding,
          lambda index, b=block, s=leaf.shape: b[_region(index, s)],
        )
        for leaf, block in zip(jax.tree.leaves(shapes), blocks)
      ],
    )
    if checksums(state).tolist() != about['state']:
      damage = 'the arrays differ from what was saved'
    try:
      batches.set_state(about['place'])
      if data_checksum(batches) != about['data'] or about['step'] != step:
        damage = 'the position in the data differs from what was saved'
    except Exception as error:  # noqa: BLE001  As above.
      damage = brief(error)
    return None if self._any_damaged(damage, step) else state

  def _any_damaged(self, damage, step):
    """Whether any process cannot use this step; logs the reason."""
    useless = bool(np.any(all_gather([damage is not None])))
    if useless:
      logging.warning(
        'Step %d of the cache %s is unusable (%s).',
        step,
        self._folder,
        damage or 'on another process',
      )
    return useless

  def _read(self, step):
    columns, file = Columns(str(self._folder)), self._path(step).name
    about = parse_json(columns.metadata(file)['about'])
    return {key: columns.rows(file, key) for key in columns.names(file)}, about

  def _write(self, step, tensors, about):
    """Writes a step atomically, then deletes the oldest ones."""
    self._folder.mkdir(parents=True, exist_ok=True)
    for left in self._folder.glob('.*.part'):
      left.unlink()
    with atomically(self._path(step)) as part, part.open('wb') as file:
      file.write(_header(tensors, about))
      file.writelines(tensors.values())
    for old in self._steps()[_KEPT:]:
      self._path(old).unlink()

  def _wait(self):
    """Waits for the pending write; logs its failure."""
    writing, self._writing = self._writing, None
    error = writing and writing.exception()
    if error:
      logging.warning(
        'Writing the cache %s failed (%s); the run continues, and the workdir '
        'has its checkpoints.',
        self._folder,
        brief(error),
      )


def _run_id(workdir: epath.Path) -> str:
  """A unique name of the run, which changes if its workdir is deleted."""
  path = workdir / 'run_id'
  if jax.process_index() == 0 and not _ID.fullmatch(read_state(path) or b''):
    write_atomically(path, uuid.uuid4().hex.encode())
  barrier('the run has an id')
  # The path is included: a copied workdir is another run.
  text = (read_state(path) or b'') + f' {workdir}'.encode()
  return hashlib.sha256(text).hexdigest()[:16]


def _region(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
  """Text of an index into an array of `shape`, such as '0:4,8:16'."""
  bounds = [s.indices(n)[:2] for s, n in zip(index, shape)]
  return ','.join(f'{start}:{stop}' for start, stop in bounds)


def _shards(state: TrainState) -> dict[str, bytes]:
  """Bytes of the shards of this process's devices, by leaf and region."""
  found = {}
  for i, leaf in enumerate(jax.tree.leaves(state)):
    for shard in leaf.addressable_shards:
      key = f'{i}/{_region(shard.index, leaf.shape)}'
      if key not in found:
        shard.data.copy_to_host_async()
        found[key] = shard.data
  # Copies: buffers of a CPU "device" are donated to the next step.
  return {key: np.asarray(x).tobytes() for key, x in found.items()}


def _header(tensors: Mapping[str, bytes], about: dict[str, Any]) -> bytes:
  """Header of a safetensors file with these tensors."""
  header, end = {'__metadata__': {'about': json.dumps(about)}}, 0
  for key, data in tensors.items():
    start, end = end, end + len(data)
    header[key] = {
      'dtype': 'U8',
      'shape': [len(data)],
      'data_offsets': [start, end],
    }
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  return len(text).to_bytes(8, 'little') + text


def _blocks(
  shapes: TrainState,
  parts: Mapping[str, np.ndarray],
) -> list[dict[str, np.ndarray]]:
  """Arrays that the devices of this process need, by leaf and region.

  Raises ValueError if the file was written with another sharding.
  """
  found, used = [], 0
  for i, leaf in enumerate(jax.tree.leaves(shapes)):
    regions = {
      _region(index, leaf.shape): tuple(
        len(range(*s.indices(n))) for s, n in zip(index, leaf.shape)
      )
      for index in leaf.sharding.addressable_devices_indices_map(
        leaf.shape
      ).values()
    }
    used += len(regions)
    if not all(f'{i}/{region}' in parts for region in regions):
      raise ValueError('it was written with another sharding')
    found.append(
      {
        region: parts[f'{i}/{region}'].view(leaf.dtype).reshape(shape)
        for region, shape in regions.items()
      }
    )
  if used != len(parts):
    raise ValueError('it was written with another sharding')
  return found
