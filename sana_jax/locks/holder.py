"""The holder of a claim, parsed from its file, and whether it is alive."""

from collections.abc import Mapping
import dataclasses
import datetime
import os
import pathlib
import re
import socket
import time
import uuid

from sana_jax.files import parse_json
from sana_jax.printable import printable

# Set by a supervisor for the processes of an attempt, see `attempt_env`.
RUN, ATTEMPT = 'SANA_JAX_RUN', 'SANA_JAX_ATTEMPT'
_OWN_RUN = uuid.uuid4().hex
_MOST = 60  # Characters of a name in a message.


@dataclasses.dataclass(frozen=True)
class Holder:
  """A process that holds a claim.

  Attributes:
    since: Unix time by the holder's clock, for messages only.
    kernel: boot and PID namespace in which `process` is valid; '' if the system
      does not report them.
    started: start time of the process, in ticks after the boot.
    place: identity of the claim's file, which a copy of it does not have.
    run: id of the supervised run; '' if it is not supervised.
    attempt: attempt of that run; later ones compare larger.
    token: unique to each claim.
  """

  host: str
  process: int
  since: float
  doing: str
  kernel: str = ''
  started: str = ''
  place: str = ''
  run: str = ''
  attempt: tuple[int, ...] = ()
  token: str = ''

  @classmethod
  def here(cls, doing: str) -> 'Holder':
    """Holder that describes this process."""
    process = os.getpid()
    return cls(
      socket.gethostname(),
      process,
      time.time(),
      doing,
      _kernel(),
      _started(process),
      '',
      os.environ.get(RUN, ''),
      _numbers(os.environ.get(ATTEMPT, '')),
      uuid.uuid4().hex,
    )

  def is_alive(self) -> bool | None:
    """Whether the process exists; None if this machine cannot determine it."""
    if not self.kernel or self.kernel != _kernel():
      return None
    return _started(self.process) == self.started

  def is_succeeded_by(self, other: 'Holder') -> bool:
    """Whether `other` is a later attempt of the same supervised run."""
    return bool(self.run) and (
      self.run == other.run and self.attempt < other.attempt
    )

  def __str__(self) -> str:
    moment = datetime.datetime.fromtimestamp(self.since, datetime.UTC)
    return (
      f'process {self.process} on {printable(self.host, _MOST)}, '
      f'{printable(self.doing, _MOST)} since {moment:%Y-%m-%d %H:%M:%S} '
      'UTC'
    )


def parse(data: bytes) -> Holder | None:
  """The holder that a claim names; None if the data is not a claim."""
  try:
    value = parse_json(data)
    attempt = tuple(map(int, value.pop('attempt')))
    holder = Holder(**value, attempt=attempt)
    datetime.datetime.fromtimestamp(holder.since, datetime.UTC)
  except (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    OSError,
  ):
    return None
  types = {f.name: f.type for f in dataclasses.fields(Holder)}
  texts = [k for k, kind in types.items() if kind is str]
  valid = isinstance(holder.process, int) and all(
    isinstance(getattr(holder, k), str) for k in texts
  )
  # The token is part of a file name.
  return (
    holder if valid and re.fullmatch('[0-9a-f]{32}', holder.token) else (None)
  )


def attempt_env(number: int) -> Mapping[str, str]:
  """Environment variables that mark an attempt's processes as one run.

  A requeued SLURM job is the same run, as is a JobSet with recreated pods;
  otherwise each supervisor has its own run.
  """
  job, jobset = os.environ.get('SLURM_JOB_ID'), os.environ.get('JOBSET')
  cluster = os.environ.get('SLURM_CLUSTER_NAME', '')
  run = os.environ.get(RUN) or (
    f'slurm {cluster} {job}'
    if job
    else f'jobset {jobset}'
    if jobset
    else _OWN_RUN
  )
  before = os.environ.get(ATTEMPT) or os.environ.get('SLURM_RESTART_COUNT', '0')
  return {RUN: run, ATTEMPT: '.'.join(map(str, (*_numbers(before), number)))}


def _numbers(text):
  return tuple(map(int, re.findall(r'\d{1,9}', text)))


def _kernel():
  """Id of the boot and the PID namespace, in which process ids are unique."""
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return ''


def _started(process):
  """Start time of a process according to /proc; '' if it does not exist."""
  try:
    stat = pathlib.Path(f'/proc/{process:d}/stat').read_text()
  except (OSError, ValueError):
    return ''
  state, *fields = stat.rpartition(')')[2].split()
  # Processes in state Z or X have exited but have not been waited for.
  return '' if state in 'ZX' else fields[18]
