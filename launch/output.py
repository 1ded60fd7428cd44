"""Output folders: written whole, file by file, or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib

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


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes all of the text or nothing."""
  part = path.with_name(f'.{path.name}.part')
  try:
    part.write_text(text, encoding='utf-8')
    part.replace(path)
  except BaseException:
    part.unlink(missing_ok=True)
    raise
