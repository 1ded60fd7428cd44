"""Attempt history of a run, in a file that outlives its supervisor."""

from collections.abc import Sequence
import dataclasses
import itertools
import json
import os
from typing import Any

from absl import logging
from etils import epath

from sana_jax.errors import TransientError
from sana_jax.files import parse_json, read_bytes
from sana_jax.launching.restarts import Attempt
from sana_jax.printable import printable
from sana_jax.training import checkpoint_files
from sana_jax.training.workdir import is_remote, resolve, write_atomically

_MOST_BYTES = 2**24  # Limit of the file: a hundred thousand attempts.
_MOST_STEP = 2**63 - 1


def read(path: epath.PathLike) -> list[Attempt]:
  """Reads the history; [] if the file does not exist.

  An invalid file is renamed to NAME.damaged, with a warning, as it must not
  prevent a run from starting.
  """
  path = resolve(path)
  try:
    return _attempts(parse_json(_content(path)))
  except FileNotFoundError:
    return []
  except (OSError, ValueError) as e:
    if isinstance(e, TransientError):
      raise
    _set_aside(path, e)
    return []


def write(path: epath.PathLike, attempts: Sequence[Attempt]) -> None:
  """Writes the history atomically."""
  text = json.dumps([dataclasses.asdict(a) for a in attempts])
  write_atomically(resolve(path), text.encode())


def delete(path: epath.PathLike) -> None:
  """Deletes the history, so that the next launch starts without it."""
  path = resolve(path)
  try:
    path.unlink(missing_ok=True)
  except OSError as e:
    _set_aside(path, e)


def newest_step(workdir: epath.PathLike) -> int:
  """Step of the newest complete checkpoint; 0 if there is none."""
  return max(
    checkpoint_files.steps(resolve(workdir) / 'checkpoints'), default=0
  )


def _content(path: epath.Path) -> bytes:
  if not is_remote(path):
    return read_bytes(path, _MOST_BYTES)
  try:
    if path.stat().length > _MOST_BYTES:
      raise ValueError(f'more than {_MOST_BYTES} bytes')
    return path.read_bytes()
  except (FileNotFoundError, ValueError):
    raise
  except Exception as e:  # noqa: BLE001  Errors of buckets have many types.
    raise TransientError(
      f'{path} cannot be read ({type(e).__name__}: '
      f'{printable(e, 200)}); start again.',
      value=str(path),
    ) from e


def _attempts(value: Any) -> list[Attempt]:
  """Attempts from the JSON value; raises ValueError for other values."""
  if not isinstance(value, list):
    raise ValueError('not a list')
  for number, entry in enumerate(value):
    if not _is_attempt(entry):
      raise ValueError(f'entry {number} is not an attempt')
  return [Attempt(**entry) for entry in value]


def _is_attempt(entry):
  if not isinstance(entry, dict) or entry.keys() != {
    field.name for field in dataclasses.fields(Attempt)
  }:
    return False
  step, code = entry['step'], entry['exit_code']
  return (
    type(step) is int
    and 0 <= step <= _MOST_STEP
    and (code is None or type(code) is int and 0 <= code <= 255)
    and isinstance(entry['stop_requested'], bool)
  )


def _set_aside(path, error):
  """Renames the file, or leaves it for the next write to replace."""
  reason = printable(getattr(error, 'strerror', None) or error, 200)
  names = (f'{path.name}.damaged{n or ""}' for n in itertools.count())
  aside = next(p for p in map(path.with_name, names) if not p.exists())
  try:
    os.replace(path, aside) if not is_remote(path) else path.replace(aside)
    outcome = f'renamed to {aside.name}'
  except OSError as e:
    outcome = f'left unchanged ({e.strerror or e})'
  logging.warning(
    '%s is not an attempt history (%s); it is %s, and '
    'attempts are counted from 0.',
    path,
    reason,
    outcome,
  )
