"""Description of a launch, from which every script is generated."""

from collections.abc import Sequence
import dataclasses
import posixpath
from typing import NamedTuple

from sana_jax.errors import did_you_mean, joined, UserError
from sana_jax.launching import fields
from sana_jax.launching.machines import gpus_per_host, Machines, TPUS
from sana_jax.launching.restarts import Policy
from sana_jax.printable import printable


class Mount(NamedTuple):
  """A folder of all hosts; `claim` is '' if it is there without the job."""

  claim: str
  path: str


@dataclasses.dataclass(frozen=True)
class Place:
  """Requirements of an environment where jobs run.

  Attributes:
    kinds: kinds of machines that it has.
    needs: required fields of a Job.
    takes: optional fields of a Job.
  """

  kinds: tuple[str, ...]
  needs: tuple[str, ...] = ()
  takes: tuple[str, ...] = ()


PLACES = {
  'slurm': Place(('gpu', 'cpu'), takes=('partition', 'account', 'time_limit')),
  'gke': Place(
    ('tpu', 'gpu'),
    ('image',),
    ('spot', 'cluster', 'zone', 'project', 'mount', 'hf_token_secret'),
  ),
  'tpu-vm': Place(('tpu',), ('image', 'zone'), ('spot', 'project', 'mount')),
  'local': Place(('cpu', 'gpu', 'tpu')),
}
_OF_PLACES = (
  'partition',
  'account',
  'time_limit',
  'image',
  'spot',
  'cluster',
  'zone',
  'project',
  'mount',
  'hf_token_secret',
)


@dataclasses.dataclass(frozen=True)
class Job:
  """A training run on some machines.

  Attributes:
    where: a key of PLACES.
    overrides: --config.key=value arguments.
    out: folder for files that are written locally.
    image: container image, built from launch/Containerfile.
    time_limit: in SLURM's format.
    mount: [CLAIM:]/PATH of each folder that the hosts share.
    hf_token_secret: NAME[:KEY] of a secret of Kubernetes.
  """

  where: str
  name: str
  config: str
  workdir: str
  machines: Machines
  out: str
  layout: str | None = None
  overrides: tuple[str, ...] = ()
  policy: Policy = Policy()
  image: str | None = None
  time_limit: str | None = None
  partition: str | None = None
  account: str | None = None
  cluster: str | None = None
  zone: str | None = None
  project: str | None = None
  spot: bool = False
  mount: tuple[str, ...] = ()
  hf_token_secret: str | None = None

  @property
  def mounts(self) -> list[Mount]:
    """The folders of `mount`, as given."""
    split = [text.rpartition(':') for text in self.mount]
    return [Mount(claim, path) for claim, _, path in split]

  def is_mounted(self, path: str) -> bool:
    """Whether an absolute path is in one of the mounts."""
    path = posixpath.normpath(path)
    return any(
      path == mount.path or path.startswith(f'{mount.path}/')
      for mount in self.mounts
    )


def check(job: Job) -> None:
  """Raises one UserError that names every invalid value."""
  place = PLACES.get(job.where)
  if place is None:
    raise UserError(
      f'--where={printable(job.where, 200)} is unknown'
      f'{did_you_mean(job.where, PLACES)}; allowed are {", ".join(PLACES)}.',
      key='--where',
      value=job.where,
      allowed=tuple(PLACES),
    )
  problems = [*_bad_texts(job), *_problems(job, place)]
  if problems:
    raise joined(problems)


def _bad_texts(job):
  """Problems of texts and names, regardless of the place."""
  paths = {
    'config': job.config.partition(':')[0],
    'workdir': job.workdir,
    'layout': job.layout,
    'out': job.out,
  }
  names = [
    (key, text)
    for key in fields.GRAMMARS
    for value in [getattr(job, key)]
    for text in (value if isinstance(value, tuple) else (value,))
  ]
  found = [
    *(fields.name_problem(k, v) for k, v in names if v is not None),
    *(fields.path_problem(k, v) for k, v in paths.items() if v is not None),
    fields.text_problem('--config', job.config),
    *fields.override_problems(job.overrides),
  ]
  return list({str(error): error for error in found if error}.values())


def _problems(job, place):
  machines, where = job.machines, f'--where={job.where}'
  if machines.kind not in place.kinds:
    others = [name for name, p in PLACES.items() if machines.kind in p.kinds]
    yield UserError(
      f'--topology={machines.name} is not available for {where}, which has '
      f'{" and ".join(k.upper() + "s" for k in place.kinds)}; choose '
      f'--where={" or ".join(others)}',
      key='--where',
      value=job.where,
      allowed=others,
    )
  for key in _OF_PLACES:
    flag = fields.flag(key)
    if getattr(job, key) and key not in place.needs + place.takes:
      others = [n for n, p in PLACES.items() if key in p.needs + p.takes]
      yield UserError(
        f'{flag} is not for {where} but for {" and ".join(others)}',
        key=flag,
        value=getattr(job, key),
        allowed=[f'--where={name}' for name in others],
      )
    if key in place.needs and not getattr(job, key):
      yield UserError(f'{where} requires {flag}', key=flag)
  if (
    job.where != 'local'
    and not job.workdir.startswith('/')
    and ('://' not in job.workdir)
  ):
    allowed = 'a bucket, such as gs://bucket/run, or an absolute path'
    yield UserError(
      f'--workdir={printable(job.workdir, 200)} must be the same for all '
      f'hosts; give {allowed} that they share',
      key='--workdir',
      value=job.workdir,
      allowed=allowed,
    )
  yield from _mount_problems(job)
  if machines.kind in place.kinds:
    yield from _machine_problems(job, machines)


def _mount_problems(job):
  for mount in job.mounts:
    if job.where == 'tpu-vm' and mount.claim:
      yield UserError(
        f'--mount={mount.claim}:{mount.path} names a claim of Kubernetes; give '
        f'--mount={mount.path}, a folder of each VM',
        key='--mount',
        value=f'{mount.claim}:{mount.path}',
        allowed=[mount.path],
      )
    if [m.path for m in job.mounts].count(mount.path) > 1:
      yield UserError(
        f'--mount={mount.path} is given twice; give each folder once',
        key='--mount',
        value=mount.path,
      )


def _machine_problems(job, machines):
  """Problems of the machines, in this place."""
  name = machines.name
  about = {'key': '--topology', 'value': name}
  if job.where == 'local' and machines.kind != 'cpu' and machines.processes > 1:
    yield UserError(
      f'--topology={name} is {machines.processes} hosts, and --where=local is '
      'one; give one host, or another --where',
      allowed='one host',
      **about,
    )
  if job.where == 'tpu-vm' and not TPUS[machines.chip].vm:
    yield UserError(
      f'{machines.chip} is for --where=gke only',
      allowed=[chip for chip, names in TPUS.items() if names.vm],
      **about,
    )
  if job.where != 'gke':
    return
  if machines.kind == 'tpu' and machines.slices > 1 and machines.hosts == 1:
    yield UserError(
      f'--topology={name}: GKE joins slices of several hosts only; give larger '
      'ones',
      allowed='slices of several hosts',
      **about,
    )
  counts = gpus_per_host(machines.chip)
  if machines.kind == 'gpu' and machines.devices not in counts:
    yield UserError(
      f'--topology={name}: GKE has {machines.chip} machines with '
      f'{" or ".join(map(str, counts))} GPUs',
      allowed=counts,
      **about,
    )


def train_arguments(job: Job, more: Sequence[str] = ()) -> list[str]:
  """Arguments of sana-jax for each process, as --flag=value.

  A separate value that begins with - would be parsed as a flag.
  """
  devices = [f'--cpu-devices={job.machines.devices}'] * (
    job.machines.kind == 'cpu'
  )
  layout = [f'--layout={job.layout}'] if job.layout else []
  return [
    'train',
    f'--config={job.config}',
    f'--workdir={job.workdir}',
    *layout,
    *devices,
    *more,
    *job.overrides,
  ]


def environment(job: Job) -> dict[str, str]:
  """Environment variables of each process."""
  if job.machines.kind == 'cpu':
    return {'JAX_PLATFORMS': 'cpu'}
  # As assumed by sana-jax plan; JAX's default is three quarters of the memory.
  gpu = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.92'}
  return gpu if job.machines.kind == 'gpu' else {}
