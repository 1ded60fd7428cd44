"""Arrays that took long to find out, kept on disk under what they follow from.

A cache that cannot be read is made again; one that cannot be written costs the
time of making it again, and a line in the log. Arrays are read into memory: a
file that is mapped and then cut short would end the process with SIGBUS.
"""

from collections.abc import Callable
import hashlib
import io
import json
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np

from sana_jax.files import open_regular, write_bytes
from sana_jax.paths import expanded
from sana_jax.seals import sealed, unsealed

CACHE = '~/.cache/sana_jax/index'
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
  path = pathlib.Path(expanded(cache)) / f'{digest[:32]}.arrays'
  try:
    return _read(path)
  except FileNotFoundError:
    pass
  except (OSError, ValueError) as error:
    logging.warning('%s is damaged (%s) and made again.', path, error)
  arrays, trouble = _told(make())
  if not trouble:
    try:
      _write(path, arrays)
    except OSError as error:
      logging.warning(
        '%s cannot be written (%s); the data will be scanned '
        'again the next time.',
        path,
        error,
      )
  return arrays


def _told(arrays):
  """(arrays, how often reading failed), the latter with a line in the log."""
  arrays = {name: np.asarray(array) for name, array in arrays.items()}
  trouble = int(np.sum(arrays.pop(TROUBLE, 0)))
  if trouble:
    logging.warning(
      '%d reads failed; what they would tell is unknown for now '
      'and asked for again at the next start.',
      trouble,
    )
  return arrays, trouble


def _read(path):
  with open_regular(path) as file:
    content = unsealed(file.read())
  with np.load(io.BytesIO(content)) as arrays:
    return dict(arrays)


def _write(path, arrays):
  path.parent.mkdir(parents=True, exist_ok=True)
  content = io.BytesIO()
  np.savez(content, **arrays)
  write_bytes(path, sealed(content.getvalue()))
