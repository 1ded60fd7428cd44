"""Copies of parts of a model folder: their data, and nothing from elsewhere.

A folder of others may hold code, a pipe, or a link to a private file, which a
copy would carry into a folder that is published. The hub's cache consists of
links to its own blobs.
"""

from collections.abc import Iterator
import os
import pathlib
import shutil

from sana_jax import files
from sana_jax.errors import UserError

_SUFFIXES = ('.json', '.safetensors', '.model')
_NATIVE = 'orbax'  # All of it is data; see native.py.


def check(folder: pathlib.Path, name: str) -> None:
  """Raises UserError where `copy` would, before there is work to lose."""
  for path in _data(folder / name):
    _check_inside(folder, path)


def copy(folder: pathlib.Path, name: str, out: pathlib.Path) -> None:
  """Copies the file folder/name, or the data files beneath it, if there.

  Raises UserError for links that leave the model folder.
  """
  for path in _data(folder / name):
    target = out / path.relative_to(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_inside(folder, path)
    try:
      source = files.open_regular(path)
    except OSError as e:
      raise UserError(f'{path} cannot be copied ({e.strerror}).') from e
    with source, target.open('wb') as copied:
      shutil.copyfileobj(source, copied, 2**20)


def _data(path) -> Iterator[pathlib.Path]:
  if not path.is_dir():
    if os.path.lexists(path):
      yield path
    return
  for root, below, names in os.walk(path):
    inner = pathlib.Path(root)
    yield from (inner / name for name in below if (inner / name).is_symlink())
    for name in names:
      if name.endswith(_SUFFIXES) or inner.is_relative_to(path / _NATIVE):
        yield inner / name


def _check_inside(folder, path):
  real, home = (pathlib.Path(os.path.realpath(p)) for p in (path, folder))
  blobs = home.parents[1] / 'blobs' if home.parent.name == 'snapshots' else home
  if not (real.is_relative_to(home) or real.is_relative_to(blobs)):
    raise UserError(
      f'{path} is a link out of the model folder, which is not '
      'copied; put the file itself there.'
    )
