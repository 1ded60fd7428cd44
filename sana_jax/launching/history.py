"""The attempts of a run, in a file that outlives whoever supervises it."""

from collections.abc import Sequence
import dataclasses
import json

from absl import logging
from etils import epath

from sana_jax.launching.restarts import Attempt
from sana_jax.training import saved
from sana_jax.training.workdir import resolve, write_atomically


def read(path: epath.PathLike) -> list[Attempt]:
  """Those that were noted; none if there is no such file."""
  path = resolve(path)
  try:
    return [Attempt(**x) for x in json.loads(path.read_text())]
  except FileNotFoundError:
    return []
  except (ValueError, TypeError):
    logging.warning('%s is not what a run has written; it is begun anew.', path)
    return []


def write(path: epath.PathLike, attempts: Sequence[Attempt]) -> None:
  """All of them, or what was there stays."""
  text = json.dumps([dataclasses.asdict(a) for a in attempts])
  write_atomically(resolve(path), text.encode())


def forget(path: epath.PathLike) -> None:
  """What starts next, starts afresh."""
  resolve(path).unlink(missing_ok=True)


def newest_step(workdir: epath.PathLike) -> int:
  """Of the checkpoints that are whole; 0 where there are none."""
  return max(saved.steps(resolve(workdir) / 'checkpoints'), default=0)
