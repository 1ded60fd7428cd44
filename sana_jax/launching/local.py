"""Supervised processes on this machine."""

import dataclasses
import pathlib
import socket
import sys

from tqdm import tqdm

from sana_jax import locks
from sana_jax.launching import fields, history, supervisor
from sana_jax.launching.job import environment, Job, train_arguments
from sana_jax.launching.processes import Process, Requests, run
from sana_jax.locks.holder import attempt_env
from sana_jax.printable import printable

_SHOWN_BYTES = 1 << 16  # Bytes of a log that are read at a time.


class Tail:
  """Printer of appended lines of a file to stderr."""

  def __init__(self, path: pathlib.Path, prefix: str):
    self._path, self._prefix, self._rest = path, prefix, b''
    self._at = path.stat().st_size if path.exists() else 0

  def __call__(self) -> None:
    """Prints new lines."""
    if not self._path.exists():
      return
    with self._path.open('rb') as file:
      file.seek(self._at)
      while new := file.read(_SHOWN_BYTES):
        self._at += len(new)
        *lines, rest = (self._rest + new).split(b'\n')
        self._rest = rest[-_SHOWN_BYTES:]  # A progress bar has no newline.
        for line in lines:
          tqdm.write(f'{self._prefix}{shown(line)}', file=sys.stderr)


def shown(line: bytes) -> str:
  """A log line for the terminal; only the last state of a progress bar."""
  last = line.rstrip(b'\r').rpartition(b'\r')[2]
  return printable(last.decode(errors='replace'), keep='\t')


def processes(
  job: Job, command: list[str], logs: pathlib.Path
) -> list[Process]:
  """Processes of one attempt, whose coordinator uses a free port."""
  count, address = job.machines.processes, f'localhost:{free_port()}'
  return [
    Process(
      [
        *command,
        *train_arguments(
          job, [f'--distributed={address},{count},{i}'] * (count > 1)
        ),
      ],
      environment(job),
      logs / f'process-{i}.log',
    )
    for i in range(count)
  ]


def free_port() -> int:
  """A TCP port that is not in use."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def launch(job: Job, command: list[str]) -> int:
  """Runs and restarts `command` (sana-jax); returns the last exit code."""
  logs, notes = folder(job) / 'logs', folder(job) / 'attempts.json'
  tail = Tail(logs / 'process-0.log', '[0] ')
  with (
    locks.hold(locks.within(logs), 'launching', '--workdir'),
    Requests() as requests,
  ):
    history.delete(notes)  # From an earlier launch.
    start = lambda number: run(
      [
        dataclasses.replace(p, env={**p.env, **attempt_env(number)})
        for p in processes(job, command, logs)
      ],
      requests,
      poll=tail,
    )
    return supervisor.supervise(
      supervisor.Run(start, job.workdir, notes, job.policy), requests
    )


def folder(job: Job) -> pathlib.Path:
  """Folder for logs and history: the workdir, or --out if that is a bucket."""
  key = 'out' if '://' in job.workdir else 'workdir'
  return fields.local_folder(key, getattr(job, key))
