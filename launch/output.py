"""Folders and JSON files that flags name."""

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
  """Raises UserError, before any work is done, if it cannot be a folder.

  Makes a folder beside or in it, and removes that: permissions alone do not
  tell of full disks, of names that are too long or of what is read-only.
  """
  if '://' in path:
    raise UserError(f'{flag}={path} is no local folder; give one.')
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
      f'{flag}={path} cannot be made: {why}; choose another folder.'
    ) from e


def check_place(path: str, flag: str = '--out') -> None:
  """Does what `check` does for a folder that may lie in a bucket."""
  if not path.startswith(BUCKETS):
    check(path, flag)


def check_new(path: str, flag: str) -> pathlib.Path:
  """Checks a path that must not exist yet, as `check` does; returns it."""
  out = pathlib.Path(expanded(path))
  with contextlib.suppress(OSError):  # `check` reports it.
    out.lstat()
    raise UserError(
      f'{flag}={path} exists; choose another name, or remove it first.'
    )
  check(path, flag)
  return out


def _exists(path):
  """Whether the path leads anywhere; raises OSError where none can be made."""
  try:
    path.stat()
  except FileNotFoundError:
    if path.is_symlink():  # To nothing, where mkdir would fail.
      raise
    return False
  except NotADirectoryError:  # The file is one of its parents.
    return False
  return True


def read(path: str | os.PathLike, flag: str) -> bytes:
  """A JSON file that a flag names; UserError where it cannot be read."""
  try:
    return files.read_bytes(expanded(path), files.JSON_BYTES)
  except OSError as e:
    raise UserError(
      f'{flag}={path} cannot be read ({e.strerror}); give a '
      'JSON file that this command wrote.'
    ) from e


@contextlib.contextmanager
def folder(path: str, flag: str = '--out') -> Iterator[pathlib.Path]:
  """The folder, made if need be, and gone again where nothing came of it.

  A failure of the disk in the block becomes one sentence.
  """
  out = pathlib.Path(expanded(path))
  try:
    with _made(out):
      yield out
  except OSError as e:
    raise UserError(
      f'{flag}={path} cannot be written ({e.strerror or e}); free some space '
      'or choose another folder.'
    ) from e


@contextlib.contextmanager
def _made(out: pathlib.Path) -> Iterator[None]:
  """Makes a folder and those above it; afterwards removes the empty ones."""
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
      with contextlib.suppress(OSError):  # It is not empty: it stays.
        one.rmdir()
