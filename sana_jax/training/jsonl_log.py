"""metrics.jsonl: one object per log interval, each step once.

A local file is appended to immediately. An object in a bucket cannot be
appended to, and rewriting it at each line would stall the devices: there a
thread rewrites it once a minute, and `sync` before each checkpoint.
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
from sana_jax.printable import counted
from sana_jax.training.workdir import (
  is_remote,
  read_state,
  write_atomically,
  writing,
)


class JsonlLog:
  """The file of a run resumed after a step; for process 0 only."""

  def __init__(
    self,
    path: epath.Path,
    last_step: int,
    every_seconds: float = 60.0,
    may_write: Callable[[], bool] = lambda: True,
  ):
    """Drops lines of steps after `last_step`, and invalid lines.

    Nothing is written once `may_write` returns False: the workdir then belongs
    to another run.
    """
    kept = [x for x in read_lines(path) if x['step'] <= last_step]
    # Training time in seconds at the last line kept.
    self.seconds = (kept[-1].get('seconds') if kept else None) or 0.0
    self._path, self._may_write = path, may_write
    self._lines = [json.dumps(x) + '\n' for x in kept]
    self._written = -1  # Number of lines in the file; -1: no file yet.
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
    """Appends a line, to a bucket later; UserError if the disk fails."""
    text = json.dumps(line) + '\n'
    if self._thread is None:
      with writing(self._path), self._path.open('a') as file:
        file.write(text)
    else:
      self._lines.append(text)

  def sync(self) -> None:
    """Writes all lines; UserError if that fails."""
    with self._one_writes:
      lines = list(self._lines)
      if not self._may_write():
        return
      if self._written == len(lines):
        if self._thread is None:  # Written, but not yet safe from power loss.
          with writing(self._path), self._path.open('rb') as file:
            os.fsync(file.fileno())
        return
      write_atomically(self._path, ''.join(lines).encode())
      self._written = len(lines)

  def close(self) -> None:
    """Writes the remaining lines; logs a failure, which `sync` raises."""
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
  """The objects of the file, without truncated or damaged lines."""
  found = (read_state(path) or b'').splitlines()
  lines = [line for text in found if (line := _line(text)) is not None]
  if bad := len(found) - len(lines):
    logging.warning(
      '%s has %s of %d, skipped here.',
      path,
      counted(bad, 'truncated or damaged line'),
      len(found),
    )
  return lines


def _line(text):
  """The line as a dict of a step and numbers, or None."""
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
  """Whether `x` is a number, or null for one that was not finite."""
  return (
    x is None or type(x) is float or (type(x) is int and -(2**63) <= x < 2**63)
  )
