"""Cloud TPU VMs by queued resources: a script that stays with them.

Written for gcloud 5xx; --accelerator-type counts cores up to v5p, chips since.
"""

import os
import pathlib
import shlex
import shutil
from typing import NoReturn

from sana_jax.errors import UserError
from sana_jax.interpreter import module
from sana_jax.launch import templates
from sana_jax.launch.supervise import policy_words
from sana_jax.launching.job import Job, train_arguments
from sana_jax.launching.machines import TPUS

FILE = 'job.sh'


def write(job: Job) -> str:
  """The script."""
  quote = shlex.quote
  out = pathlib.Path(job.out).expanduser().absolute()
  more = ['--distributed'] * (job.machines.processes > 1)
  project = [f'--project={job.project}'] if job.project else []
  return templates.fill(f'tpu_vm/{FILE}', {
    'title': f'{job.config} on {job.machines.name}, by sana-jax launch.',
    'name': job.name,
    'image': quote(job.image),
    'train': quote(shlex.join(['sana-jax', *train_arguments(job, more)])),
    'place': shlex.join([f'--zone={job.zone}', *project]),
    'machines': shlex.join(machines(job)),
    'login': login(job.image),
    'notes': quote(str(out / 'attempts.json')),
    'supervise': shlex.join([
      *module('sana_jax.launch.supervise'), '--workdir', job.workdir,
      *policy_words(job.policy)])})


def machines(job: Job) -> list[str]:
  """Options of gcloud: what to ask for."""
  found, tpu = job.machines, TPUS[job.machines.chip]
  nodes = (f'--node-count={found.slices}' if found.slices > 1 else
           f'--node-id={job.name}')
  chips = found.chips // found.slices
  kind = ([f'--type={tpu.vm}', f'--topology={found.grid}']
          if found.chip == 'v4' else
          [f'--accelerator-type={tpu.vm}-{tpu.cores * chips}'])
  return [*kind, f'--runtime-version={tpu.runtime}', nodes,
          *(['--spot'] if job.spot else [])]


def login(image: str) -> str:
  """Lets Docker read Google's registry."""
  host = image.partition('/')[0]
  if not host.endswith(('pkg.dev', 'gcr.io')):
    return ''
  return f'sudo gcloud auth configure-docker {shlex.quote(host)} --quiet; '


def execute(path: pathlib.Path) -> NoReturn:
  """Becomes the script; it stays until the run is done."""
  if not shutil.which('gcloud'):
    raise UserError(f'There is no gcloud on this machine; {path} is written: '
                    f'run bash {path} where there is.')
  os.execvp('bash', ['bash', str(path)])
