"""Cloud TPU VMs by queued resources: a script that supervises them.

Written for gcloud 5xx; --accelerator-type counts cores up to v5p, chips since.
"""

import os
import pathlib
import re
import shlex
import sys
from typing import NoReturn

from sana_jax.interpreter import module
from sana_jax.launch import templates, tools
from sana_jax.launch.supervise import policy_words
from sana_jax.launching import fields
from sana_jax.launching.job import Job, train_arguments
from sana_jax.launching.machines import TPUS

FILE = 'job.sh'


def write(job: Job) -> str:
  """Writes the script.

  A line for the hosts is parsed twice, by the shell of the script and by that
  of a host; `train` and `login` are therefore joined for the one and quoted for
  the other. The other texts in it, the name and the mounts, have no character
  that a shell interprets.
  """
  quote = shlex.quote
  out = fields.local_folder('out', job.out)
  python = fields.check_text("Python's path", sys.executable)
  more = ['--distributed'] * (job.machines.processes > 1)
  project = [f'--project={job.project}'] if job.project else []
  return templates.fill(
    f'tpu_vm/{FILE}',
    {
      'title': f'{job.config} on {job.machines.name}, by sana-jax launch.',
      'name': job.name,
      'train': quote(
        shlex.join([job.image, 'sana-jax', *train_arguments(job, more)])
      ),
      'volumes': ''.join(
        f' --volume={mount.path}:{mount.path}' for mount in job.mounts
      ),
      'place': shlex.join([f'--zone={job.zone}', *project]),
      'machines': shlex.join(machines(job)),
      'login': quote(login(job.image)),
      'notes': quote(str(out / 'attempts.json')),
      'supervise': shlex.join(
        [
          *module('sana_jax.launch.supervise', python),
          f'--workdir={job.workdir}',
          *policy_words(job.policy),
        ]
      ),
    },
  )


def machines(job: Job) -> list[str]:
  """Options of gcloud for the requested machines."""
  found, tpu = job.machines, TPUS[job.machines.chip]
  nodes = (
    f'--node-count={found.slices}'
    if found.slices > 1
    else f'--node-id={job.name}'
  )
  chips = found.chips // found.slices
  kind = (
    [f'--type={tpu.vm}', f'--topology={found.grid}']
    if found.chip == 'v4'
    else [f'--accelerator-type={tpu.vm}-{tpu.cores * chips}']
  )
  return [
    *kind,
    f'--runtime-version={tpu.runtime}',
    nodes,
    *(['--spot'] if job.spot else []),
  ]


def login(image: str) -> str:
  """Command that gives Docker access to a Google registry; '' for others.

  Docker sends Google's token to each host that is named.
  """
  match = re.match(r'([a-z0-9-]+-docker\.pkg\.dev|([a-z]+\.)?gcr\.io)/', image)
  if not match:
    return ''
  return (
    shlex.join(
      ['sudo', 'gcloud', 'auth', 'configure-docker', match[1], '--quiet']
    )
    + '; '
  )


def execute(path: pathlib.Path) -> NoReturn:
  """Replaces this process by the script, which runs until the run is done."""
  tools.require(
    'gcloud',
    f'{path} is written: run {shlex.join(["bash", str(path)])} where gcloud is',
  )
  os.execvp('bash', ['bash', str(path)])
