"""Check that the hosts of a job can have the paths of its run, before it waits.

  value                     local  slurm  gke, tpu-vm
  bucket                    yes    yes    yes, where the key allows one
  name of a model, hub id   yes    yes    yes
  absolute path             yes    yes    in a --mount
  relative path             yes    yes    no

The hosts of SLURM start in the folder of the submission. Whether a path exists
is checked by each host, see `hosts.py`.
"""

from collections.abc import Iterator
import sys

from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax.errors import joined, UserError
from sana_jax.keys import Location
from sana_jax.launching.job import Job
from sana_jax.paths import BUCKETS
from sana_jax.printable import printable
from sana_jax.tree import flatten
from sana_jax.weights import hub

WORKDIR = Location(buckets=True)
_SHOWN = 200


def read(
  config: ConfigDict, begun: bool = False
) -> Iterator[tuple[str, str, Location]]:
  """Key, value and location of each path that a run reads.

  Args:
    begun: whether the run has a checkpoint.
  """
  values = flatten(config, '.')
  for key, rule in base.table(config.get('task')).items():
    path = values.get(key)
    if path and rule.location and rule.location.used(values, begun):
      yield key, path, rule.location


def check(job: Job, config: ConfigDict) -> None:
  """Raises one UserError that names every path that hosts cannot have."""
  if job.where == 'local':
    return
  paths = [('--workdir', job.workdir, WORKDIR), *read(config)]
  problems = [p for p in (_problem(job, *path) for path in paths) if p]
  if problems:
    raise joined(problems)
  for key, value, location in paths:
    if job.where == 'gke' and not job.hf_token_secret:
      _mention_token(key, value, location)


def _problem(job, key, value, location) -> UserError | None:
  if location.names and hub.is_name(value):
    return None
  if '://' in value:
    if location.buckets and value.startswith(BUCKETS):
      return None
    why = 'is not a path that is read from a bucket'
  elif job.where == 'slurm':
    return None
  elif not value.startswith('/'):
    why = 'is a path of this machine, which the hosts do not have'
  elif job.is_mounted(value):
    return None
  else:
    why = f'is in no --mount of the hosts of --where={job.where}'
  allowed = [
    *(['a bucket, such as gs://BUCKET/PATH'] * location.buckets),
    *(['a name that sana-jax zoo lists, a hub id'] * location.names),
    'an absolute path'
    if job.where == 'slurm'
    else 'a path in a folder of --mount',
  ]
  return UserError(
    f'{label(key)}={printable(value, _SHOWN)} {why}; give '
    f'{", or ".join(allowed)}',
    key=key,
    value=value,
    allowed=allowed,
  )


def label(key: str) -> str:
  """The argument that sets a key, without `--` for those of a config."""
  return key if key.startswith('--') else f'config.{key}'


def _mention_token(key, value, location):
  """Logs, for a hub id outside the zoo, how pods get a token."""
  if location.names and value.count('/') == 1 and hub.is_name(value):
    print(
      f'Each host downloads {label(key)}={printable(value, _SHOWN)} from the '
      'hub; a gated one needs --hf-token-secret.',
      file=sys.stderr,
    )
