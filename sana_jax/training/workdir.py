"""The folder of one run, on a local disk or a bucket (`gs://...`).

config.json      the config, see run_config.py
records.json     number and checksum of its records, see dataset_check.py
frozen.json      frozen models, such as a teacher, see frozen_models.py
run_id           name of its folder in config.checkpoint_cache
checkpoints/     training state, see checkpoints.py
metrics.jsonl    one object per log interval, see jsonl_log.py
loss.png         the loss curve
pictures/        sample grids
profile/         traces, see profiler.py
model/           the trained model, once the run is finished
"""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import os
import pathlib
import shutil
import tempfile

from etils import epath
import fsspec
import jax
from jax.experimental import multihost_utils
from jaxtyping import UInt32
import numpy as np

from sana_jax import files, locks
from sana_jax.errors import TransientError, UserError
from sana_jax.paths import expanded_or_url
from sana_jax.training import checkpoint_files


def read_state(path: epath.Path) -> bytes | None:
  """Content of a file of the workdir; None if there is none.

  Raises UserError if it is not a regular file or cannot be read.
  """
  try:
    return checkpoint_files.read(path)
  except FileNotFoundError:
    return None
  except OSError as error:
    kind = TransientError if is_remote(path) else UserError
    raise kind(
      f'{path} cannot be read ({error.strerror or error}); move it away and '
      'start again, or choose another --workdir.',
      key='--workdir',
      value=path,
    ) from error
  except Exception as error:  # noqa: BLE001  gcsfs raises many types.
    raise TransientError(
      f'{path} cannot be read ({type(error).__name__}: {error}); check the '
      'connection and start again.',
      key='--workdir',
      value=path,
    ) from error


@contextlib.contextmanager
def writing(path: epath.PathLike, flag: str = '--workdir') -> Iterator[None]:
  """Context that turns an OSError into a UserError or a TransientError."""
  try:
    yield
  except OSError as error:
    kind = TransientError if is_remote(path) else UserError
    in_its_place = isinstance(
      error, IsADirectoryError | NotADirectoryError | FileExistsError
    )
    advice = (
      'move away what is in its place'
      if in_its_place
      else 'check space and permissions there'
    )
    raise kind(
      f'Writing {path} failed ({error.strerror or error}); {advice} and '
      f'start again, or choose another {flag}.',
      key=flag,
      value=path,
    ) from error


@contextlib.contextmanager
def new_folder(
  folder: epath.Path, flag: str = '--workdir'
) -> Iterator[pathlib.Path]:
  """Yields a local folder to fill, which replaces `folder` on success.

  To a bucket, which cannot rename folders, it is uploaded file by file, with
  the index of the model last: a folder without one is not a model.
  """
  with locks.hold(locks.beside(folder), 'writing a model', flag):
    yield from _new_folder(folder, flag)


def _new_folder(folder, flag):
  if is_remote(folder):
    with tempfile.TemporaryDirectory(prefix='sana_jax') as local:
      yield pathlib.Path(local)
      with writing(folder, flag):
        _upload(pathlib.Path(local), folder)
    return
  folder = pathlib.Path(folder)
  part, old = (folder.with_name(f'.{folder.name}.{x}') for x in ('part', 'old'))
  with writing(folder, flag):
    _check_replaceable(folder)
    try:
      shutil.rmtree(part, ignore_errors=True)
      part.mkdir(parents=True)
      yield part
      _sync_all(part)
      if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
      part.rename(folder)
      files.sync(folder.parent)
      shutil.rmtree(old, ignore_errors=True)
    finally:
      shutil.rmtree(part, ignore_errors=True)


def _check_replaceable(folder):
  """Raises NotADirectoryError if it is a file, fifo or link."""
  if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
    raise NotADirectoryError(errno.ENOTDIR, 'it is no folder')


def _sync_all(folder: pathlib.Path) -> None:
  """Flushes a folder and all its files to disk."""
  for path in (*folder.rglob('*'), folder):
    files.sync(path)


def _upload(local: pathlib.Path, folder: epath.Path) -> None:
  files = sorted(
    (p for p in local.rglob('*') if p.is_file()),
    key=lambda p: (p.name == 'model_index.json', p),
  )
  if folder.exists():
    folder.rmtree()
  for path in files:
    target = folder / path.relative_to(local).as_posix()
    target.parent.mkdir(parents=True, exist_ok=True)
    epath.Path(path).copy(target)


def is_remote(path: epath.PathLike) -> bool:
  """Whether the path is in a bucket."""
  return '://' in os.fspath(path)


def resolve(workdir: epath.PathLike) -> epath.Path:
  """The folder, absolute if it is local, as orbax rejects relative paths."""
  path = expanded_or_url(workdir)
  if not is_remote(path):
    return epath.Path(os.path.abspath(path))
  # Orbax writes there without fsspec, whose listing cache would be stale.
  for scheme in 'gcs', 'gs', 's3':
    fsspec.config.conf.setdefault(scheme, {})['use_listings_cache'] = False
  return epath.Path(path)


def write_atomically(path: epath.Path, data: bytes) -> None:
  """Writes all of `data` or leaves the file unchanged; creates the folder."""
  with writing(path):
    if is_remote(path):  # Uploads are atomic.
      try:
        path.write_bytes(data)
      except OSError:
        raise
      except Exception as error:  # noqa: BLE001  gcsfs raises many types.
        raise OSError(f'{type(error).__name__}: {error}') from error
      return
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, data)


def barrier(name: str) -> None:
  """Blocks until every process has reached the barrier of this name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def all_gather(numbers: Sequence[int]) -> UInt32[np.ndarray, 'process number']:
  """All-gathers a few integers, as many from every process."""
  numbers = np.asarray(numbers, np.uint32)
  if jax.process_count() == 1:
    return numbers[None]
  return multihost_utils.process_allgather(numbers)
