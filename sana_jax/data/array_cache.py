"""Disk cache of arrays that are slow to compute, by a JSON key.

An unreadable entry is recomputed; a failed write is logged. Files are not
memory-mapped, as truncating a mapped file would end the process with SIGBUS.
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
from sana_jax.printable import counted
from sana_jax.seals import sealed, unsealed

CACHE = '~/.cache/sana_jax/index'
FAILED_READS = 'failed_reads'


def cached_arrays(
  cache: str | os.PathLike | None,
  key: Any,
  make: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
  """Arrays of `make()`, from the cache if it has an entry of the same `key`.

  Nothing is stored without a cache (None or ''), or if `make` counts temporary
  failures under FAILED_READS.
  """
  if not cache:
    return _without_failures(make())[0]
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
  path = pathlib.Path(expanded(cache)) / f'{digest[:32]}.arrays'
  try:
    return _read(path)
  except FileNotFoundError:
    pass
  except (OSError, ValueError) as error:
    logging.warning('%s is damaged (%s) and is recomputed.', path, error)
  arrays, failed = _without_failures(make())
  if not failed:
    try:
      _write(path, arrays)
    except OSError as error:
      logging.warning(
        '%s cannot be written (%s); the data will be scanned again next time.',
        path,
        error,
      )
  return arrays


def _without_failures(arrays):
  """(other arrays, number of failed reads); logs failures."""
  arrays = {name: np.asarray(array) for name, array in arrays.items()}
  failed = int(np.sum(arrays.pop(FAILED_READS, 0)))
  if failed:
    logging.warning(
      '%s: what was not read is unknown for now and is read again at the next '
      'start.',
      counted(failed, 'read failed', 'reads failed'),
    )
  return arrays, failed


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
