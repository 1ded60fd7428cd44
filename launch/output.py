"""Folders and JSON files that flags name."""

from collections.abc import Iterator
import contextlib
import os
import pathlib

from sana_jax import files
from sana_jax.errors import UserError


def check(path: str) -> None:
  """Raises UserError, before any work is done, if --out cannot be a folder."""
  out = pathlib.Path(path).expanduser()
  there = next(p for p in (out, *out.absolute().parents) if p.exists())
  if not there.is_dir():
    raise UserError(f'--out={path} cannot be made: {there} is a file; choose '
                    'another folder.')
  if not os.access(there, os.W_OK | os.X_OK):
    raise UserError(f'--out={path} cannot be made: {there} may not be written '
                    'to; choose another folder.')


def read(path: str | os.PathLike, flag: str) -> bytes:
  """A JSON file that a flag names; UserError where it cannot be read."""
  try:
    return files.read_bytes(pathlib.Path(path).expanduser(), files.JSON_BYTES)
  except OSError as e:
    raise UserError(f'{flag}={path} cannot be read ({e.strerror}); give a '
                    'JSON file that this command wrote.') from e


@contextlib.contextmanager
def folder(path: str) -> Iterator[pathlib.Path]:
  """--out, made if need be, and gone again where nothing came of it.

  A failure of the disk in the block becomes one sentence.
  """
  out = pathlib.Path(path).expanduser()
  made = not out.exists()
  try:
    out.mkdir(parents=True, exist_ok=True)
    yield out
  except OSError as e:
    raise UserError(
      f'--out={path} cannot be written ({e.strerror or e}); free some space or '
      'choose another folder.') from e
  finally:
    if made:
      with contextlib.suppress(OSError):  # It is not empty: it stays.
        out.rmdir()
