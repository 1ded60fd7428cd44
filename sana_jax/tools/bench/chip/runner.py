"""Runs the stages one after the other until the time is up.

Each has a process of its own, which is ended at its budget: a crash, a hang or
a want of memory costs that stage alone. What was found is written after every
row, and a second call goes on with what is missing.
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

  name: str
  status: str = 'not run'
  said: str = ''
  seconds: float = 0.0
  tries: int = 0
  rows: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def rows(found: Run) -> dict[str, dict[str, Any]]:
  """Of each stage that has some."""
  return {r.name: r.rows for r in found.records if r.rows}


def resumed(found: Run, versions: dict[str, str]) -> Run:
  """An earlier run, with packages that have come since.

  Raises UserError where it had other versions.
  """
  if {**versions, **found.versions} != versions:
    raise UserError(
      f'--out was measured with {listed(found.versions)}, not '
      f'{listed(versions)}; give another folder.'
    )
  return dataclasses.replace(found, versions=versions)


def run(
  path: pathlib.Path,
  found: Run,
  seconds: float,
  stages: Sequence[Stage] = STAGES,
  say: Callable[[str], None] = print,
) -> Run:
  """Goes on with `found`, and writes it to `path` all the while."""
  end = time.monotonic() + seconds
  known = {r.name: r for r in found.records}
  found = dataclasses.replace(
    found,
    records=[known.get(stage.name) or Result(stage.name) for stage in stages],
  )
  for stage, result in waiting(found, stages):
    left = end - time.monotonic()
    if stage.missing:
      result.status, result.said = 'missing', ', '.join(stage.missing)
    elif left >= _LEAST:
      budget = min(left, stage.budget * (1 + result.tries))
      for device in _attempt(
        stage, result, budget, rows(found), path.with_name('chip.log')
      ):
        found = _on_device(found, device)
        files.write_text(path, to_json(found))
    say(
      f'{stage.name}: {result.status}'
      + (f' in {result.seconds:.0f} s' if result.seconds else '')
      + (f' ({result.said})' if result.said else '')
    )
  files.write_text(path, to_json(found))
  return found


def waiting(
  found: Run, stages: Sequence[Stage] = STAGES
) -> list[tuple[Stage, Result]]:
  """What is not done; first what was never tried, then what failed."""
  left = [
    pair
    for pair in zip(stages, found.records, strict=True)
    if pair[1].status not in _DONE
  ]
  return sorted(left, key=lambda pair: pair[1].tries)


def _attempt(stage, result, budget, earlier, log) -> Iterator[str]:
  """Yields the device after each thing that is new in `result`."""
  began, device = time.monotonic(), ''
  result.tries += 1
  result.status, result.said = 'failed', 'its process has died'
  for kind, *values in _messages(stage, budget, earlier, log):
    if kind == 'device':
      device = values[0]
    elif kind == 'row':
      result.rows[values[0]] = values[1]
    else:
      result.status, result.said = values
    result.seconds = time.monotonic() - began
    yield device


def _on_device(found, device):
  """The run of this device; UserError where it has figures of another."""
  if found.device and device and found.device != device:
    raise UserError(
      f'--out has figures of {found.device}, and this is '
      f'{device}; give another folder.'
    )
  return dataclasses.replace(found, device=device or found.device)


def _messages(stage, budget, earlier, log) -> Iterator[tuple]:
  """What the process sends, until it is done, dead or out of time."""
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
  """Ends it and all that it has started, compilers of PyTorch included."""
  with contextlib.suppress(ProcessLookupError, PermissionError):
    os.killpg(process.pid, signal.SIGKILL)
  process.kill()  # Where it has not become a group yet.
  process.join()
