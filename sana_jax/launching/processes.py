"""Several processes that are one run: the end of one is the end of all."""

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

STOPPED = 143  # As a shell reports SIGTERM; sana-jax train, once it has saved.
_LOOK_SECONDS = 0.1
# SIGTERM if who supervises is killed: two runs in a workdir never meet. (1 is
# PR_SET_PDEATHSIG, which only Linux has.)
_BOUND = (
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
  """What to start.

  Attributes:
    env: besides that of this process.
    log: that is appended to; None for this process's own output.
  """

  command: Sequence[str]
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)
  log: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Patience:
  """Seconds between a SIGTERM and a SIGKILL.

  Attributes:
    saving: after a stop was asked for: enough to save.
    others: after one has died: they wait for it in vain.
  """

  saving: float | int = 300.0
  others: float | int = 10.0


class Requests:
  """SIGTERM, SIGINT and, if `again`, SIGUSR1, while the context lasts.

  Attributes:
    stop: the signals that asked to stop.
    again: SIGUSR1 did: the time is nearly up.
    noted: called once a run begins to stop; it may not live to see the end.
  """

  def __init__(self, again: bool = False):
    self.stop: list[int] = []
    self.noted: Callable[[], None] = lambda: None
    self._signals = [signal.SIGTERM, signal.SIGINT]
    self._signals += [signal.SIGUSR1] if again else []

  @property
  def again(self) -> bool:
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
    """For so long, or until a stop is asked for."""
    end = time.monotonic() + seconds
    while not self.stop and (left := end - time.monotonic()) > 0:
      time.sleep(min(left, _LOOK_SECONDS))


def run(
  processes: Sequence[Process],
  requests: Requests,
  *,
  patience: Patience = Patience(),
  stop: Callable[[], object] | None = None,
  look: Callable[[], None] = lambda: None,
) -> int:
  """Starts all, waits until all have ended, and returns the first failure.

  One that fails stops the others, by SIGTERM and then SIGKILL. A request to
  stop goes to all of them, by `stop` if it is given and SIGTERM otherwise; they
  end by themselves, or by SIGKILL. `look` is called now and then.
  """
  with contextlib.ExitStack() as stack:
    running = [start(p, stack) for p in processes]
    stack.callback(_kill, running)
    code, deadline, asked = 0, None, False
    while None in [p.poll() for p in running]:
      time.sleep(_LOOK_SECONDS)
      look()
      told = bool(requests.stop)
      code = code or _failure(running, told)
      if told and not asked:
        asked, deadline = True, time.monotonic() + patience.saving
        requests.noted()
        _stop(stop, running)
      elif code and deadline is None:
        # After a SIGTERM to one of them, all agree on a step and save it.
        deadline = time.monotonic() + patience.saving
        if code != STOPPED:
          deadline = time.monotonic() + patience.others
          _terminate(running)
      if deadline is not None and time.monotonic() > deadline:
        _kill(running)
    look()
    return (
      code
      or _failure(running, asked)
      or max(shell_code(p.returncode) for p in running)
    )


def start(process: Process, stack: contextlib.ExitStack) -> subprocess.Popen:
  """In a session of its own: Ctrl-C comes to it as SIGTERM."""
  name = printable(process.command[0], 200)
  if not shutil.which(process.command[0]):
    raise UserError(
      f'There is no command {name} on this machine; install it, '
      'or add its folder to PATH.'
    )
  output = {}
  if process.log:
    output = {
      'stdout': _opened(process.log, stack),
      'stderr': subprocess.STDOUT,
    }
  try:
    return subprocess.Popen(
      [*_BOUND, *process.command],
      env={**os.environ, **process.env},
      stdin=subprocess.DEVNULL,
      start_new_session=True,
      **output,
    )
  except OSError as e:
    raise UserError(f'{name} cannot be started ({e.strerror}).') from e


def _opened(log, stack):
  try:
    log.parent.mkdir(parents=True, exist_ok=True)
    return stack.enter_context(log.open('ab'))
  except OSError as e:
    raise UserError(
      f'{printable(log)} cannot be written ({e.strerror}); '
      'choose another --workdir.'
    ) from e


def shell_code(returncode: int) -> int:
  """As a shell reports it: 128 and the signal's number."""
  return 128 - returncode if returncode < 0 else returncode


def _failure(running, asked):
  """The exit code of one that failed; those that were asked to stop do not."""
  allowed = (0, STOPPED) if asked else (0,)
  codes = [
    shell_code(p.returncode) for p in running if p.returncode is not None
  ]
  return next((c for c in codes if c not in allowed), 0)


def _stop(stop, running):
  """Runs `stop`, or sends SIGTERM where there is none or it cannot start."""
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
