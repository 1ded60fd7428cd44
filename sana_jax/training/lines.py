"""metrics.jsonl: one object a log interval, each step once.

A local file gets its lines at once. An object in a bucket cannot grow and is
written whole, so that a line each few seconds would send the file over and over
while the devices wait: there a thread writes what is new once a minute, and
`sync` what must lie there before a checkpoint does.
"""

import json
import threading
from typing import Any

from absl import logging
from etils import epath

from sana_jax.errors import UserError
from sana_jax.training.workdir import is_remote, write_atomically, writing


class Lines:
  """The file of a run that goes on after a step; process 0's alone."""

  def __init__(
      self, path: epath.Path, last_step: int, every_seconds: float = 60.):
    """Drops lines of steps after `last_step`, torn ones too."""
    kept = [x for x in read_lines(path) if x['step'] <= last_step]
    # Seconds that training had taken at the last line kept.
    self.seconds = kept[-1]['seconds'] if kept else 0.
    self._path = path
    self._lines = [json.dumps(x) + '\n' for x in kept]
    self._written = -1  # So many of them; none, and there is no file yet.
    self._one_writes = threading.Lock()
    self._closed = threading.Event()
    self._thread = None
    self.sync()
    if is_remote(path):
      self._thread = threading.Thread(
          target=self._write_each, args=(every_seconds,), daemon=True)
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
      if self._written == len(lines):
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
  """The objects of the file; a line torn by a kill is left out."""
  lines = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      lines.append(json.loads(line))
    except json.JSONDecodeError:
      logging.warning('%s has a torn line, which is left out.', path)
  return lines
