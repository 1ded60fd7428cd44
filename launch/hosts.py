"""Check of each process of a run that its host sees data, models and workdir.

Problems are logged with the host's name before the processes connect, and then
end all of them with the same exit code, so that a run of many hosts does not
fail on one while the others wait.
"""

import contextlib
import os
import pathlib
import re
import secrets
import socket

from absl import logging
from etils import epath
import jax
from ml_collections import ConfigDict

from sana_jax.data import files
from sana_jax.errors import joined, TransientError, UserError
from sana_jax.keys import Location
from sana_jax.launch import devices, locations, output
from sana_jax.locks.holder import ATTEMPT
from sana_jax.paths import expanded
from sana_jax.printable import printable
from sana_jax.training import checkpoint_files
from sana_jax.training.workdir import (
  all_gather,
  barrier,
  is_remote,
  resolve,
  write_atomically,
)
from sana_jax.weights import hub

_DENIED = (PermissionError, FileNotFoundError)  # No retry changes them.


def join(
  config: ConfigDict, workdir: epath.PathLike, processes: tuple | None
) -> None:
  """Connects to the other processes, if any, and raises what `check` finds.

  A single process is checked if a supervisor started it; otherwise the run
  itself reports what is missing.
  """
  if processes is None and ATTEMPT not in os.environ:
    return
  problem = check(config, workdir)
  if processes is not None:
    devices.join(processes)
  agree(problem, workdir)


def check(config: ConfigDict, workdir: epath.PathLike) -> UserError | None:
  """The error of this host, also logged, or None. Nothing is read or kept."""
  problems = []
  for one in (_check_workdir, lambda path: _check_paths(config, path)):
    try:
      one(workdir)
    except UserError as e:
      problems.append(e)
  if not problems:
    return None
  # One that no restart repairs decides on the exit code.
  problems.sort(key=lambda e: e.exit_code)
  kind, host = type(problems[0]), socket.gethostname()
  found = joined(problems)
  error = kind(
    f'{host}: {found}', key=found.key, value=found.value, allowed=found.allowed
  )
  logging.error('%s', error)
  return error


def agree(error: UserError | None, workdir: epath.PathLike) -> None:
  """Raises the error of this host, or one for those of others.

  Called by all processes once they are connected. The workdir must be the same
  folder for all.
  """
  codes = all_gather([error.exit_code if error else 0])[:, 0].tolist()
  if error:
    raise error
  if failed := [i for i, code in enumerate(codes) if code]:
    kind = UserError if UserError.exit_code in codes else TransientError
    raise kind(
      f'The host of process {failed[0]} cannot read or write all paths of the '
      'run; its log names them.',
      key='--distributed',
      value=failed,
    )
  if jax.process_count() > 1 and not is_remote(workdir):
    _check_shared(pathlib.Path(resolve(workdir)))


def _check_shared(workdir):
  """Raises UserError if a process does not see the workdir of process 0."""
  numbers = all_gather([secrets.randbits(32)])
  token = workdir / f'.seen-by-all-{int(numbers[0, 0]):08x}'
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(output.folder(str(workdir), '--workdir'))
      token.touch()
      stack.callback(token.unlink, missing_ok=True)
    barrier('the workdir has a file of process 0')
    seen = all_gather([token.exists()])[:, 0].tolist()
  if blind := [i for i, sees in enumerate(seen) if not sees]:
    raise UserError(
      f'--workdir={workdir} is not the same folder on the hosts of process 0 '
      f'and process {blind[0]}; give a bucket, or a folder that they share.',
      key='--workdir',
      value=str(workdir),
    )


def _check_workdir(workdir):
  """Raises UserError unless files can be written to the workdir."""
  workdir = os.fspath(workdir)
  if not is_remote(workdir):
    output.check(workdir, '--workdir')
    return
  probe = resolve(workdir) / f'.write-{socket.gethostname()}-{os.getpid()}'
  try:
    write_atomically(probe, b'')
    probe.unlink()
  except TransientError as e:
    cause = e.__cause__
    if isinstance(cause, _DENIED) or 'Forbidden' in str(cause):
      raise UserError(
        f'--workdir={workdir} cannot be written ({_brief(cause)}); check the '
        'bucket and the permissions of this host.',
        key='--workdir',
        value=workdir,
      ) from e
    raise


def _check_paths(config, workdir):
  """Raises UserError unless the paths that a run reads exist."""
  problems = []
  for key, value, location in locations.read(config, _has_begun(workdir)):
    try:
      missing = _missing(value, location)
    except UserError as e:
      missing = str(e).rstrip('.')
    if missing:
      problems.append(
        UserError(
          f'{locations.label(key)}={printable(value, 200)}: {missing}',
          key=key,
          value=value,
          allowed='a path that every host has',
        )
      )
  if problems:
    raise joined(problems)


def _has_begun(workdir):
  """Whether there is a checkpoint; False if the workdir cannot be read."""
  try:
    return bool(checkpoint_files.steps(resolve(workdir) / 'checkpoints'))
  except OSError:
    return False  # The workdir's own check reports it.
  except Exception:  # Of a bucket's client, which has any type.
    if not is_remote(workdir):
      raise
    return False


def _missing(value: str, location: Location) -> str:
  """Describes a path that is not on this host; '' if it is."""
  if location.names and hub.is_name(value):
    return ''
  root = fixed(value)
  if files.is_remote(root):
    return '' if files.exists(root) else f'there is no {root}'
  path = pathlib.Path(expanded(root))
  if path.exists() if location.buckets else path.is_dir():
    return ''
  return f'there is no {printable(path, 200)} on this host'


def fixed(pattern: str) -> str:
  """The folder of a pattern up to its first wildcard; other paths unchanged."""
  start = re.split(r'[*?\[{]', pattern, maxsplit=1)[0]
  if start == pattern:
    return pattern
  folder = start.rpartition('/')[0]
  return folder or ('/' if start.startswith('/') else '.')


def _brief(error):
  return printable((str(error) or type(error).__name__).splitlines()[0], 200)
