"""metrics.jsonl: one object a log interval, each step once.

A local file gets its lines at once. An object in a bucket cannot grow and is
written whole, so that a line each few seconds would send the file over and over
while the devices wait: there a thread writes what is new once a minute, and
`sync` what must lie there before a checkpoint does.
"""

from collections.abc import Callable
import json
import os
import threading
from typing import Any

from absl import logging
from etils import epath

from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.training.workdir import (
  is_remote,
  read_state,
  write_atomically,
  writing,
)


class Lines:
  """The file of a run that goes on after a step; process 0's alone."""

  def __init__(
    self,
    path: epath.Path,
    last_step: int,
    every_seconds: float = 60.0,
    may_write: Callable[[], bool] = lambda: True,
  ):
    """Drops lines of steps after `last_step`, and what is no line.

    Once `may_write` is False, another run's file is left alone.
    """
    kept = [x for x in read_lines(path) if x['step'] <= last_step]
    # Seconds that training had taken at the last line kept.
    self.seconds = (kept[-1].get('seconds') if kept else None) or 0.0
    self._path, self._may_write = path, may_write
    self._lines = [json.dumps(x) + '\n' for x in kept]
    self._written = -1  # So many of them; none, and there is no file yet.
    self._one_writes = threading.Lock()
    self._closed = threading.Event()
    self._thread = None
    self.sync()
    if is_remote(path):
      self._thread = threading.Thread(
        target=self._write_each, args=(every_seconds,), daemon=True
      )
      self._thread.start()

  def append(self, line: dict[str, Any]) -> None:
    """Raises UserError where the disk fails; a bucket is written later."""
    text = json.dumps(line) + '\n'
    if self._thread is None:
      with writing(self._path), self._path.open('a') as file:
        file.write(text)
    else:
      self._lines.append(text)

  def sync(self) -> None:
    """Returns when all lines are written; raises UserError if they cannot."""
    with self._one_writes:
      lines = list(self._lines)
      if not self._may_write():
        return
      if self._written == len(lines):
        if self._thread is None:  # They are there, but for a power failure.
          with writing(self._path), self._path.open('rb') as file:
            os.fsync(file.fileno())
        return
      write_atomically(self._path, ''.join(lines).encode())
      self._written = len(lines)

  def close(self) -> None:
    """Writes what is left; a failure is a warning, as `sync` came before."""
    if self._thread is not None:
      self._closed.set()
      self._thread.join()
      self._try()

  def _write_each(self, seconds):
    while not self._closed.wait(seconds):
      self._try()

  def _try(self):
    try:
      self.sync()
    except UserError as error:
      logging.warning('Lines are kept in memory for now. %s', error)


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
  """The objects of the file; what a kill or a disk has damaged is left out."""
  found = (read_state(path) or b'').splitlines()
  lines = [line for text in found if (line := _line(text)) is not None]
  if bad := len(found) - len(lines):
    logging.warning(
      '%s has %d torn or damaged lines of %d, which are left out.',
      path,
      bad,
      len(found),
    )
  return lines


def _line(text):
  """A step and numbers, or None."""
  try:
    line = parse_json(text)
  except ValueError:
    return None
  is_line = (
    isinstance(line, dict)
    and type(line.get('step')) is int
    and all(map(_is_number, line.values()))
  )
  return line if is_line else None


def _is_number(x):
  """Null is one that was not finite."""
  return (
    x is None or type(x) is float or (type(x) is int and -(2**63) <= x < 2**63)
  )
