"""Arrays that took long to find out, kept on disk under what they follow from.

A cache that cannot be read is made again; one that cannot be written costs the
time of making it again, and a line in the log.
"""

from collections.abc import Callable
import hashlib
import json
import os
import pathlib
from typing import Any
import zipfile

from absl import logging
import numpy as np

from sana_jax import files
from sana_jax.paths import expanded

CACHE = '~/.cache/sana_jax/index'
# Larger arrays stay on disk and are read where they are used.
_IN_MEMORY = 2**20
_LARGE = '_large'
TROUBLE = 'trouble'


def remembered(
  cache: str | os.PathLike | None,
  key: Any,
  make: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
  """What `make()` returns, or returned before for the same `key` (of JSON).

  Without a cache, None or '', nothing is kept; nor is it if `make` counts under
  TROUBLE what could not be read today, which says nothing of the data.
  """
  if not cache:
    return _told(make())[0]
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
  path = pathlib.Path(expanded(cache)) / digest[:32]
  try:
    return _read(path)
  except FileNotFoundError:
    pass
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    logging.warning('%s is damaged (%s) and made again.', path, error)
  arrays, trouble = _told(make())
  if trouble:
    return arrays
  try:
    _write(path, arrays)
    return _read(path)
  except OSError as error:
    logging.warning('%s cannot be written (%s); the data will be scanned '
                    'again the next time.', path, error)
  return arrays


def _told(arrays):
  """(arrays, how often reading failed), the latter with a line in the log."""
  arrays = dict(arrays)
  trouble = int(np.sum(arrays.pop(TROUBLE, 0)))
  if trouble:
    logging.warning('%d reads failed; what they would tell is unknown for now '
                    'and asked for again at the next start.', trouble)
  return arrays, trouble


def _read(path):
  with np.load(path.with_suffix('.npz')) as arrays:
    small = dict(arrays)
  large = small.pop(_LARGE).tolist()
  return small | {name: np.load(path.with_suffix(f'.{name}.npy'), 'r')
                  for name in large}


def _write(path, arrays):
  """The small arrays last, in one file: it says that all is there."""
  path.parent.mkdir(parents=True, exist_ok=True)
  large = [name for name, array in arrays.items() if array.nbytes > _IN_MEMORY]
  for name in large:
    _replace(path.with_suffix(f'.{name}.npy'),
             lambda file, array=arrays[name]: np.save(file, array))
  small = {name: arrays[name] for name in arrays if name not in large}
  _replace(path.with_suffix('.npz'), lambda file: np.savez(
    file, **small, **{_LARGE: np.asarray(large, str)}))


def _replace(path, write):
  """All of it or nothing: others may read or write the same file."""
  with files.atomically(path) as part, part.open('wb') as file:
    write(file)
