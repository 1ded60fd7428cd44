"""Who holds a claim, as its file tells, and whether that process is alive."""

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

# Set by a supervisor for the processes of an attempt, see `of_attempt`.
RUN, ATTEMPT = 'SANA_JAX_RUN', 'SANA_JAX_ATTEMPT'
_OWN_RUN = uuid.uuid4().hex
_MOST = 60  # Characters of a name in a message.


@dataclasses.dataclass(frozen=True)
class Holder:
  """A process that holds a claim.

  Attributes:
    since: seconds after 1970 by its own clock, for messages only.
    kernel: the boot and the namespace in which `process` is a number; ''
      where the system does not tell.
    started: when the process began, in ticks after the boot.
    place: the file that the claim was made in; a copy of it lies elsewhere.
    run: of a supervised run; '' otherwise.
    attempt: of that run; later ones are larger.
    token: differs for each claim.
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
    """This process."""
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
    """Whether the process is there; None where this machine cannot tell."""
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
  """The holder that a claim names; None for what is no claim."""
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
  wanted = {f.name: f.type for f in dataclasses.fields(Holder)}
  texts = [k for k, kind in wanted.items() if kind is str]
  right = isinstance(holder.process, int) and all(
    isinstance(getattr(holder, k), str) for k in texts
  )
  # The token names a file.
  return (
    holder if right and re.fullmatch('[0-9a-f]{32}', holder.token) else (None)
  )


def of_attempt(number: int) -> Mapping[str, str]:
  """The environment by which the processes of an attempt are one run.

  A SLURM job stays the same run when it is requeued, a JobSet when its pods
  are made anew; otherwise each supervisor has a run of its own.
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
  """Numbers of processes mean the same where this is the same."""
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return ''


def _started(process):
  """When a process began, as /proc has it; '' for one that is not there."""
  try:
    stat = pathlib.Path(f'/proc/{process:d}/stat').read_text()
  except (OSError, ValueError):
    return ''
  state, *fields = stat.rpartition(')')[2].split()
  # Z and X have ended; nobody has read how.
  return '' if state in 'ZX' else fields[18]
