"""The folder of one run, on a local disk or a bucket (`gs://...`).

    config.json      what the run is; a second run with another one is refused
    records.json     what its data were, see agreement.py
    run_id           names its folder in config.checkpoint_cache
    checkpoints/     training state, see checkpoints.py
    metrics.jsonl    one object a log interval, see lines.py
    loss.png         the loss curve
    pictures/        sample grids
    profile/         traces, see profiler.py
    model/           the trained model, once the run is done
"""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

from etils import epath
import fsspec
import jax
from jax.experimental import multihost_utils
from jaxtyping import UInt32
import ml_collections
import numpy as np

from sana_jax import config as rules
from sana_jax import files
from sana_jax.errors import Trouble, UserError


def claim(
    workdir: epath.PathLike, config: ml_collections.ConfigDict,
    free: Collection[str],
) -> epath.Path:
  """The folder, made if need be, with `config` as its config.json.

  Raises UserError if `compare` does.
  """
  workdir = resolve(workdir)
  compare(workdir, config, free)
  meet('config.json is read')  # Before process 0 writes it anew.
  if jax.process_index() == 0:
    text = json.dumps(json.loads(config.to_json()), indent=2) + '\n'
    write_atomically(workdir / 'config.json', text.encode())
  return workdir


def compare(
    workdir: epath.PathLike, config: ml_collections.ConfigDict,
    free: Collection[str],
) -> None:
  """Raises UserError if the folder was made with another config.

  Keys named in `free` (whole sub-configs too) may differ.
  """
  path = resolve(workdir) / 'config.json'
  ours = json.loads(config.to_json())
  try:
    theirs = json.loads(path.read_text()) if path.exists() else ours
  except (OSError, ValueError) as error:
    raise UserError(
        f'{path} cannot be read ({error}); choose another --workdir.'
    ) from error
  if differ := _differences(flat(theirs), flat(ours), free):
    raise UserError(
        f'{workdir} holds a run of another config: {"; ".join(differ)}. Choose '
        'another --workdir, or set the config back.')


def read_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
  """That of the run; keys that it did not have yet are at their defaults.

  Raises UserError where no run is.
  """
  path = resolve(workdir) / 'config.json'
  try:
    values = json.loads(path.read_text())
    config = rules.train(values['task'])
    with config.unlocked():
      config.update(_frozen(values))
      config.model = ml_collections.ConfigDict(_frozen(values['model']))
  except FileNotFoundError:
    raise UserError(
        f'--workdir={workdir} is no run: it has no config.json.') from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
        f'{path} cannot be read ({type(error).__name__}: {error}); it is not '
        'what a run has written.') from error
  return config


def _frozen(tree: Any) -> Any:
  """Lists as tuples, as they were before JSON: modules hash their fields."""
  if isinstance(tree, dict):
    return {key: _frozen(value) for key, value in tree.items()}
  return tuple(map(_frozen, tree)) if isinstance(tree, list) else tree


@contextlib.contextmanager
def writing(path: epath.PathLike, flag: str = '--workdir') -> Iterator[None]:
  """A failure of the disk, as one sentence."""
  try:
    yield
  except OSError as error:
    kind = Trouble if is_remote(path) else UserError
    raise kind(
        f'Writing {path} failed ({error.strerror or error}); see to space and '
        f'permissions there and start again, or choose another {flag}.'
    ) from error


@contextlib.contextmanager
def new_folder(
    folder: epath.Path, flag: str = '--workdir') -> Iterator[pathlib.Path]:
  """A local folder to fill, which then is `folder`; else nothing is changed.

  A bucket, which renames no folders, gets it file by file, with the index of
  the model as the last: without one, it is none.
  """
  if is_remote(folder):
    with tempfile.TemporaryDirectory(prefix='sana_jax') as local:
      yield pathlib.Path(local)
      with writing(folder, flag):
        _upload(pathlib.Path(local), folder)
    return
  part = pathlib.Path(folder).with_name(f'.{folder.name}.part')
  with writing(folder, flag):
    try:
      shutil.rmtree(part, ignore_errors=True)
      part.mkdir(parents=True)
      yield part
      if folder.exists():
        folder.rmtree()
      part.rename(folder)
    finally:
      shutil.rmtree(part, ignore_errors=True)


def _upload(local: pathlib.Path, folder: epath.Path) -> None:
  files = sorted((p for p in local.rglob('*') if p.is_file()), key=lambda p: (
      p.name == 'model_index.json', p))
  if folder.exists():
    folder.rmtree()
  for path in files:
    target = folder / path.relative_to(local).as_posix()
    target.parent.mkdir(parents=True, exist_ok=True)
    epath.Path(path).copy(target)


def is_remote(path: epath.PathLike) -> bool:
  """Whether it lies in a bucket."""
  return '://' in os.fspath(path)


def resolve(workdir: epath.PathLike) -> epath.Path:
  """The folder, absolute if it is local: orbax refuses relative paths."""
  path = os.fspath(workdir)
  if not is_remote(path):
    return epath.Path(os.path.abspath(os.path.expanduser(path)))
  # Orbax writes there past fsspec, which must not answer from memory.
  for scheme in 'gcs', 'gs', 's3':
    fsspec.config.conf.setdefault(scheme, {})['use_listings_cache'] = False
  return epath.Path(path)


def write_atomically(path: epath.Path, data: bytes) -> None:
  """Writes all of `data` or leaves what was there; makes the folder."""
  with writing(path):
    if is_remote(path):  # There, files are whole or not at all.
      try:
        path.write_bytes(data)
      except OSError:
        raise
      except Exception as error:  # noqa: BLE001  gcsfs has many types.
        raise OSError(f'{type(error).__name__}: {error}') from error
      return
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, data)


def meet(where: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)


def gather(numbers: Sequence[int]) -> UInt32[np.ndarray, 'process number']:
  """As many numbers of every process."""
  numbers = np.asarray(numbers, np.uint32)
  if jax.process_count() == 1:
    return numbers[None]
  return multihost_utils.process_allgather(numbers)


def _differences(theirs: Any, ours: Any, free: Collection[str]) -> list[str]:
  missing = object()
  return [
      f'{key} is {theirs.get(key, "absent")!r} there and '
      f'{ours.get(key, "absent")!r} here' for key in sorted({*theirs, *ours})
      if theirs.get(key, missing) != ours.get(key, missing)
      and not any(f'{key}.'.startswith(f'{f}.') for f in free)]


def flat(tree: Any, path: str = '') -> dict[str, Any]:
  """Nested dicts as one, keys joined by dots; an empty dict is a value."""
  if not isinstance(tree, dict) or not tree:
    return {path: tree}
  join = lambda key: f'{path}.{key}' if path else key
  return {k: v for key, sub in tree.items()
          for k, v in flat(sub, join(key)).items()}
