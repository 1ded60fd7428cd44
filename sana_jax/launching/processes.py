"""Processes of one run, which end together."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from absl import logging

from sana_jax.errors import UserError
from sana_jax.printable import printable

STOPPED = 143  # Exit code for SIGTERM; sana-jax train has saved.
_POLL_SECONDS = 0.1
# Sends SIGTERM if the supervisor is killed, so that a workdir never has two
# runs. (1 is PR_SET_PDEATHSIG, which only Linux has.)
_WITH_DEATH_SIGNAL = (
  [
    sys.executable,
    '-ISc',
    'import ctypes, os, sys; '
    'ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])',
  ]
  if sys.platform == 'linux'
  else []
)


@dataclasses.dataclass(frozen=True)
class Process:
  """A process to start.

  Attributes:
    env: additional environment variables.
    log: file to which output is appended; None for this process's output.
  """

  command: Sequence[str]
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)
  log: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Patience:
  """Seconds between a SIGTERM and a SIGKILL.

  Attributes:
    saving: after a stop request, to save.
    others: after one process has died, for which the others wait in vain.
  """

  saving: float | int = 300.0
  others: float | int = 10.0


class Requests:
  """Stop requests by SIGTERM, SIGINT and, if `requeue`, SIGUSR1, in a context.

  Attributes:
    stop: the received signals.
    requeue: whether SIGUSR1 was received: the time limit is near.
    on_stop: called when a run begins to stop, as the process may be killed
      before it ends.
  """

  def __init__(self, requeue: bool = False):
    self.stop: list[int] = []
    self.on_stop: Callable[[], None] = lambda: None
    self._signals = [signal.SIGTERM, signal.SIGINT]
    self._signals += [signal.SIGUSR1] if requeue else []

  @property
  def requeue(self) -> bool:
    return signal.SIGUSR1 in self.stop

  def __enter__(self):
    self._before = {
      s: signal.signal(s, lambda number, _: self.stop.append(number))
      for s in self._signals
    }
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler or signal.SIG_DFL)

  def sleep(self, seconds: float | int) -> None:
    """Sleeps until the time is over or a stop is requested."""
    end = time.monotonic() + seconds
    while not self.stop and (left := end - time.monotonic()) > 0:
      time.sleep(min(left, _POLL_SECONDS))


def run(
  processes: Sequence[Process],
  requests: Requests,
  *,
  patience: Patience = Patience(),
  stop: Callable[[], object] | None = None,
  poll: Callable[[], None] = lambda: None,
) -> int:
  """Starts all processes, waits for them, and returns the first failure.

  A failure stops the others by SIGTERM and then SIGKILL. A stop request is
  passed on to all, by `stop` if it is given and by SIGTERM otherwise; they are
  killed if they do not end. `poll` is called periodically.
  """
  with contextlib.ExitStack() as stack:
    running = [start(p, stack) for p in processes]
    stack.callback(_kill, running)
    code, deadline, stopping = 0, None, False
    while None in [p.poll() for p in running]:
      time.sleep(_POLL_SECONDS)
      poll()
      requested = bool(requests.stop)
      code = code or _failure(running, requested)
      if requested and not stopping:
        stopping, deadline = True, time.monotonic() + patience.saving
        requests.on_stop()
        _stop(stop, running)
      elif code and deadline is None:
        # After a SIGTERM to one of them, all agree on a step and save it.
        deadline = time.monotonic() + patience.saving
        if code != STOPPED:
          deadline = time.monotonic() + patience.others
          _terminate(running)
      if deadline is not None and time.monotonic() > deadline:
        _kill(running)
    poll()
    return (
      code
      or _failure(running, stopping)
      or max(shell_code(p.returncode) for p in running)
    )


def start(process: Process, stack: contextlib.ExitStack) -> subprocess.Popen:
  """Starts a process in a new session, so that Ctrl-C does not reach it."""
  name = printable(process.command[0], 200)
  if not shutil.which(process.command[0]):
    raise UserError(
      f'There is no command {name} on this machine; install it, '
      'or add its folder to PATH.',
      key='PATH',
      value=name,
    )
  output = {}
  if process.log:
    output = {
      'stdout': _opened(process.log, stack),
      'stderr': subprocess.STDOUT,
    }
  try:
    return subprocess.Popen(
      [*_WITH_DEATH_SIGNAL, *process.command],
      env={**os.environ, **process.env},
      stdin=subprocess.DEVNULL,
      start_new_session=True,
      **output,
    )
  except OSError as e:
    raise UserError(
      f'{name} cannot be started ({e.strerror}).', value=name
    ) from e


def _opened(log, stack):
  try:
    log.parent.mkdir(parents=True, exist_ok=True)
    return stack.enter_context(log.open('ab'))
  except OSError as e:
    raise UserError(
      f'{printable(log)} cannot be written ({e.strerror}); '
      'choose another --workdir.',
      key='--workdir',
      value=log,
    ) from e


def shell_code(returncode: int) -> int:
  """Exit code as in a shell: 128 plus the number of a signal."""
  return 128 - returncode if returncode < 0 else returncode


def _failure(running, stop_requested):
  """First exit code of a failure, which STOPPED is not after a request."""
  allowed = (0, STOPPED) if stop_requested else (0,)
  codes = [
    shell_code(p.returncode) for p in running if p.returncode is not None
  ]
  return next((c for c in codes if c not in allowed), 0)


def _stop(stop, running):
  """Calls `stop`, or sends SIGTERM if there is none or it cannot start."""
  if stop:
    try:
      stop()
      return
    except OSError as e:
      logging.warning(
        'The command to stop cannot be started (%s); processes '
        'get SIGTERM instead.',
        e.strerror,
      )
  _terminate(running)


def _terminate(running):
  for p in running:
    if p.poll() is None:
      p.terminate()


def _kill(running):
  for p in running:
    if p.poll() is None:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(p.pid, signal.SIGKILL)
      p.wait()
