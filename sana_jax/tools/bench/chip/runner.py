"""Runs the stages one after the other until the time is up.

Each has a process of its own, which is ended at its budget: a crash, a hang or
a want of memory costs that stage alone. What was found is written after every
row, and a second call goes on with what is missing.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import datetime
import multiprocessing as mp
import os
import pathlib
import signal
import time
from typing import Any

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.tools import tables
from sana_jax.tools.bench.chip import worker
from sana_jax.tools.bench.chip.stages import Stage, STAGES

_LEAST = 5  # Seconds that no stage can do without.
_DONE = ('measured', 'refused')


@dataclasses.dataclass
class Result:
  """What became of a stage.

  Attributes:
    status: 'measured', 'refused' (it cannot run on this device), 'cut' at its
      budget, 'failed', 'missing' a package, or 'not run' for want of time.
    said: why.
    seconds: that it took.
    tries: how often it was started.
  """

  status: str = 'not run'
  said: str = ''
  seconds: float = 0.
  tries: int = 0
  rows: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Run:
  """All stages, and what they were measured with; times are in seconds."""

  results: dict[str, Result]
  versions: dict[str, str]
  command: str
  date: str
  device: str = ''
  devices: int = 0

  @property
  def rows(self) -> dict[str, dict[str, Any]]:
    """Of each stage that has some."""
    return {name: r.rows for name, r in self.results.items() if r.rows}


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  return tables.from_json(text, Run, results=lambda **results: {
    name: Result(**result) for name, result in results.items()})


def read(path: pathlib.Path, new: Run) -> Run:
  """What an earlier call wrote there; `new` where there is nothing.

  Raises UserError for a file of something else, or of other versions.
  """
  if not path.exists():
    return new
  found = from_json(files.read_bytes(path, files.JSON_BYTES))
  if found.versions != new.versions:
    raise UserError(f'{path} was measured with {tables.listed(found.versions)}'
                    f', not {tables.listed(new.versions)}; give another --out.')
  return found


def run(
  path: pathlib.Path, found: Run, seconds: float,
  stages: Sequence[Stage] = STAGES, say: Callable[[str], None] = print,
) -> Run:
  """Goes on with `found`, and writes it to `path` all the while."""
  end = time.monotonic() + seconds
  for stage in stages:
    found.results.setdefault(stage.name, Result())
  for stage in waiting(found, stages):
    result, left = found.results[stage.name], end - time.monotonic()
    if stage.missing:
      result.status, result.said = 'missing', ', '.join(stage.missing)
    elif left >= _LEAST:
      budget = min(left, stage.budget * (1 + result.tries))
      for _ in _attempt(stage, found, budget, path.with_name('chip.log')):
        files.write_text(path, tables.to_json(found))
    say(f'{stage.name}: {result.status}'
        + (f' in {result.seconds:.0f} s' if result.seconds else '')
        + (f' ({result.said})' if result.said else ''))
  files.write_text(path, tables.to_json(found))
  return found


def waiting(found: Run, stages: Sequence[Stage] = STAGES) -> list[Stage]:
  """What is not done; first what was never tried, then what failed."""
  left = [s for s in stages if found.results[s.name].status not in _DONE]
  return sorted(left, key=lambda s: found.results[s.name].tries)


def _attempt(stage, found, budget, log) -> Iterator[None]:
  """Yields after each thing that is new in `found`."""
  result, began = found.results[stage.name], time.monotonic()
  result.tries += 1
  result.status, result.said = 'failed', 'its process has died'
  for kind, *values in _messages(stage, budget, found.rows, log):
    if kind == 'facts':
      _same_device(found, values[0])
    elif kind == 'row':
      result.rows[values[0]] = values[1]
    else:
      result.status, result.said = values
    result.seconds = time.monotonic() - began
    yield
  result.seconds = time.monotonic() - began


def _same_device(found, facts):
  if found.device and found.device != facts['device']:
    raise UserError(f'--out has figures of {found.device}, and this is '
                    f'{facts["device"]}; give another folder.')
  found.device, found.devices = facts['device'], facts['devices']


def _messages(stage, budget, earlier, log) -> Iterator[tuple]:
  """What the process sends, until it is done, dead or out of time."""
  end = time.monotonic() + budget
  context = mp.get_context('spawn')
  near, far = context.Pipe(duplex=False)
  process = context.Process(
    target=worker.serve, args=(far, stage, budget, earlier, str(log)))
  process.start()
  far.close()
  try:
    while near.poll(max(0., end - time.monotonic())):
      message = near.recv()
      yield message
      if message[0] == 'end':
        return
    yield 'end', 'cut', ''
  except EOFError:
    process.join(5)
    yield 'end', 'failed', _died(process.exitcode)
  finally:
    _end(process)
    near.close()


def _died(code):
  how = signal.Signals(-code).name if code and code < 0 else f'exit code {code}'
  return f'its process has died ({how}); see chip.log'


def _end(process):
  """Ends it and all that it has started, compilers of PyTorch included."""
  with contextlib.suppress(ProcessLookupError, PermissionError):
    os.killpg(process.pid, signal.SIGKILL)
  process.kill()  # Where it has not become a group yet.
  process.join()


def new(versions: dict[str, str], command: str) -> Run:
  """Nothing yet."""
  return Run({}, versions, command, datetime.date.today().isoformat())
