"""Runs the stages in sequence until a deadline.

Each has its own process, which is ended at its budget: a crash, a hang or an
out-of-memory error affects that stage alone. Results are written after every
row, and a second call resumes with the missing ones.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import multiprocessing as mp
import os
import pathlib
import signal
import time
from typing import Any

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.tools.bench.chip import worker
from sana_jax.tools.bench.chip.stages import Stage, STAGES
from sana_jax.tools.report import listed, Run, to_json

_LEAST = 5  # Minimum seconds of a stage.
_DONE = ('measured', 'refused')


@dataclasses.dataclass
class Result:
  """Result of a stage.

  Attributes:
    status: 'measured', 'refused' (it cannot run on this device), 'cut' at its
      budget, 'failed', 'missing' a package, or 'not run' for lack of time.
    reason: reason for the status.
    seconds: run time.
    tries: number of starts.
  """

  name: str
  status: str = 'not run'
  reason: str = ''
  seconds: float = 0.0
  tries: int = 0
  rows: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def rows(found: Run) -> dict[str, dict[str, Any]]:
  """Rows of each stage that has any."""
  return {r.name: r.rows for r in found.records if r.rows}


def resumed(found: Run, versions: dict[str, str]) -> Run:
  """An earlier run, with packages installed since.

  Raises UserError if its versions differ.
  """
  if {**versions, **found.versions} != versions:
    raise UserError(
      f'--out was measured with {listed(found.versions)}, not '
      f'{listed(versions)}; give another folder.',
      key='--out',
      value=found.versions,
      allowed=versions,
    )
  return dataclasses.replace(found, versions=versions)


def run(
  path: pathlib.Path,
  found: Run,
  seconds: float,
  stages: Sequence[Stage] = STAGES,
  log: Callable[[str], None] = print,
) -> Run:
  """Resumes `found`, and writes it to `path` after every row."""
  end = time.monotonic() + seconds
  known = {r.name: r for r in found.records}
  found = dataclasses.replace(
    found,
    records=[known.get(stage.name) or Result(stage.name) for stage in stages],
  )
  for stage, result in waiting(found, stages):
    left = end - time.monotonic()
    if stage.missing:
      result.status, result.reason = 'missing', ', '.join(stage.missing)
    elif left >= _LEAST:
      budget = min(left, stage.budget * (1 + result.tries))
      for device in _attempt(
        stage, result, budget, rows(found), path.with_name('chip.log')
      ):
        found = _on_device(found, device)
        files.write_text(path, to_json(found))
    log(
      f'{stage.name}: {result.status}'
      + (f' in {result.seconds:.0f} s' if result.seconds else '')
      + (f' ({result.reason})' if result.reason else '')
    )
  files.write_text(path, to_json(found))
  return found


def waiting(
  found: Run, stages: Sequence[Stage] = STAGES
) -> list[tuple[Stage, Result]]:
  """Unfinished stages: those never tried, then those that failed."""
  left = [
    pair
    for pair in zip(stages, found.records, strict=True)
    if pair[1].status not in _DONE
  ]
  return sorted(left, key=lambda pair: pair[1].tries)


def _attempt(stage, result, budget, earlier, log) -> Iterator[str]:
  """Runs a stage; yields the device after each update of `result`."""
  began, device = time.monotonic(), ''
  result.tries += 1
  result.status, result.reason = 'failed', 'its process has died'
  for kind, *values in _messages(stage, budget, earlier, log):
    if kind == 'device':
      device = values[0]
    elif kind == 'row':
      result.rows[values[0]] = values[1]
    else:
      result.status, result.reason = values
    result.seconds = time.monotonic() - began
    yield device


def _on_device(found, device):
  """The run with its device; raises UserError if it had another."""
  if found.device and device and found.device != device:
    raise UserError(
      f'--out has figures of {found.device}, and this is '
      f'{device}; give another folder.',
      key='--out',
      value=found.device,
      allowed=(device,),
    )
  return dataclasses.replace(found, device=device or found.device)


def _messages(stage, budget, earlier, log) -> Iterator[tuple]:
  """Yields messages of the process until it ends, dies or times out."""
  end = time.monotonic() + budget
  context = mp.get_context('spawn')
  near, far = context.Pipe(duplex=False)
  process = context.Process(
    target=worker.serve, args=(far, stage, budget, earlier, str(log))
  )
  process.start()
  far.close()
  try:
    while near.poll(max(0.0, end - time.monotonic())):
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
  """Ends the process and its children, such as PyTorch's compilers."""
  with contextlib.suppress(ProcessLookupError, PermissionError):
    os.killpg(process.pid, signal.SIGKILL)
  process.kill()  # In case it has not created its group yet.
  process.join()
