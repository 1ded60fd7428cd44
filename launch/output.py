"""Output folders and JSON files named by flags."""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import tempfile

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.paths import BUCKETS, expanded

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
write_text = files.write_text


def check(path: str, flag: str = '--out') -> None:
  """Raises UserError, before any work is done, if a folder cannot be written.

  Creates and removes a folder beside or in it: permissions do not reveal full
  disks, names that are too long or read-only file systems.
  """
  if '://' in path:
    raise UserError(
      f'{flag}={path} is not a local folder; give one.', key=flag, value=path
    )
  out = pathlib.Path(expanded(path))
  try:
    missing = []
    for there in (out, *out.absolute().parents):
      if _exists(there):
        break
      missing.append(there.name)
    for name in missing:
      _exists(there / name)
    with tempfile.TemporaryDirectory(dir=there, prefix='.sana-jax-'):
      pass
  except OSError as e:
    why = (
      f'{there} is a file'
      if e.errno == errno.ENOTDIR
      else f'{there} may not be written to'
      if e.errno in _DENIED
      else e.strerror
    )
    raise UserError(
      f'{flag}={path} cannot be made: {why}; choose another folder.',
      key=flag,
      value=path,
    ) from e


def check_place(path: str, flag: str = '--out') -> None:
  """Applies `check` to a folder that may be in a bucket."""
  if not path.startswith(BUCKETS):
    check(path, flag)


def check_new(path: str, flag: str) -> pathlib.Path:
  """Checks, as `check`, a path that must not exist yet; returns it."""
  out = pathlib.Path(expanded(path))
  with contextlib.suppress(OSError):  # `check` reports it.
    out.lstat()
    raise UserError(
      f'{flag}={path} exists; choose another name, or remove it first.',
      key=flag,
      value=path,
    )
  check(path, flag)
  return out


def _exists(path):
  """Whether the path exists; raises OSError if it cannot be created."""
  try:
    path.stat()
  except FileNotFoundError:
    if path.is_symlink():  # A broken link, on which mkdir would fail.
      raise
    return False
  except NotADirectoryError:  # The file is one of its parents.
    return False
  return True


def read(path: str | os.PathLike, flag: str) -> bytes:
  """Reads a JSON file named by a flag; raises UserError if it cannot."""
  try:
    return files.read_bytes(expanded(path), files.JSON_BYTES)
  except OSError as e:
    raise UserError(
      f'{flag}={path} cannot be read ({e.strerror}); give a '
      'JSON file that this command wrote.',
      key=flag,
      value=path,
    ) from e


@contextlib.contextmanager
def folder(path: str, flag: str = '--out') -> Iterator[pathlib.Path]:
  """Creates a folder if needed; removes it again if it stays empty.

  Disk errors in the block are raised as UserError.
  """
  out = pathlib.Path(expanded(path))
  try:
    with _made(out):
      yield out
  except OSError as e:
    raise UserError(
      f'{flag}={path} cannot be written ({e.strerror or e}); free some space '
      'or choose another folder.',
      key=flag,
      value=path,
    ) from e


@contextlib.contextmanager
def _made(out: pathlib.Path) -> Iterator[None]:
  """Creates a folder and its parents; afterwards removes the empty ones."""
  missing = []
  for above in (out, *out.parents):
    if os.path.lexists(above):
      break
    missing.append(above)
  try:
    out.mkdir(parents=True, exist_ok=True)
    yield
  finally:
    for one in missing:
      with contextlib.suppress(OSError):  # Not empty: keep it.
        one.rmdir()
