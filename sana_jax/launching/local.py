"""All processes on this machine, supervised."""

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

_SHOWN_BYTES = 1 << 16  # Of a log at a time.


class Tail:
  """What was appended to a file, line by line, on stderr."""

  def __init__(self, path: pathlib.Path, prefix: str):
    self._path, self._prefix, self._rest = path, prefix, b''
    self._at = path.stat().st_size if path.exists() else 0

  def __call__(self) -> None:
    """Shows what is new."""
    if not self._path.exists():
      return
    with self._path.open('rb') as file:
      file.seek(self._at)
      while new := file.read(_SHOWN_BYTES):
        self._at += len(new)
        *lines, rest = (self._rest + new).split(b'\n')
        self._rest = rest[-_SHOWN_BYTES:]  # A progress bar has no line's end.
        for line in lines:
          tqdm.write(f'{self._prefix}{shown(line)}', file=sys.stderr)


def shown(line: bytes) -> str:
  """A line of a log for the terminal; of a progress bar, its last state."""
  last = line.rstrip(b'\r').rpartition(b'\r')[2]
  return printable(last.decode(errors='replace'), keep='\t')


def processes(
  job: Job, command: list[str], logs: pathlib.Path
) -> list[Process]:
  """Of one attempt; they meet at a port that is free now."""
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
  """One that nobody listens on."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def launch(job: Job, command: list[str]) -> int:
  """Runs `command` (sana-jax) so often; the exit code of the last attempt."""
  logs, notes = folder(job) / 'logs', folder(job) / 'attempts.json'
  tail = Tail(logs / 'process-0.log', '[0] ')
  with (
    locks.hold(locks.within(logs), 'launching', '--workdir'),
    Requests() as requests,
  ):
    history.forget(notes)  # Those of an earlier launch.
    start = lambda number: run(
      [
        dataclasses.replace(p, env={**p.env, **attempt_env(number)})
        for p in processes(job, command, logs)
      ],
      requests,
      look=tail,
    )
    return supervisor.supervise(
      supervisor.Run(start, job.workdir, notes, job.policy), requests
    )


def folder(job: Job) -> pathlib.Path:
  """For logs and notes: the workdir, or --out where that is a bucket."""
  key = 'out' if '://' in job.workdir else 'workdir'
  return fields.local_folder(key, getattr(job, key))
