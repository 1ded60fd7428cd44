"""Copies of the data files of a model folder, without links to other files.

An untrusted folder may contain code, a pipe, or a link to a private file, which
a copy would put into a published folder. Links of the hub's cache to its own
blobs are allowed.
"""

from collections.abc import Iterator
import os
import pathlib
import shutil

from sana_jax import files
from sana_jax.errors import UserError

_SUFFIXES = ('.json', '.safetensors', '.model')
_NATIVE = 'orbax'  # All of its files are data; see native.py.


def check(folder: pathlib.Path, name: str) -> None:
  """Raises UserError if `copy` would, for an early check.

  A part whose weights are only in torch's files, which are not copied, is
  refused, too.
  """
  part = folder / name
  if any(part.glob('*.bin')) and not any(part.glob('*.safetensors')):
    raise UserError(
      f'{part} has weights in .bin files only, which are not copied to the '
      "run's model; convert the model with sana-jax convert first.",
      key='--model',
      value=str(folder),
      allowed='safetensors',
    )
  for path in _data(folder / name):
    check_inside(folder, path)


def copy(folder: pathlib.Path, name: str, out: pathlib.Path) -> None:
  """Copies the file folder/name, or the data files in that folder, if any.

  Raises UserError for links that leave the model folder.
  """
  for path in _data(folder / name):
    target = out / path.relative_to(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    check_inside(folder, path)
    try:
      source = files.open_regular(path)
    except OSError as e:
      raise UserError(
        f'{path} cannot be copied ({e.strerror}).', value=path
      ) from e
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


def check_inside(folder: pathlib.Path, path: pathlib.Path) -> None:
  """Raises UserError for a link of the model folder to a file outside."""
  real, home = (pathlib.Path(os.path.realpath(p)) for p in (path, folder))
  blobs = home.parents[1] / 'blobs' if home.parent.name == 'snapshots' else home
  if not (real.is_relative_to(home) or real.is_relative_to(blobs)):
    raise UserError(
      f'{path} is a link to a file outside of the model folder, which is not '
      'copied; replace it by the file.',
      value=path,
      allowed='files of the model folder',
    )
