"""Batch job for SLURM."""

import pathlib
import shlex
import sys

from sana_jax.errors import UserError
from sana_jax.interpreter import module
from sana_jax.launch import templates, tools
from sana_jax.launch.supervise import policy_words
from sana_jax.launching import fields
from sana_jax.launching.job import environment, Job, train_arguments

FILE = 'job.sbatch'
_WARNING_SECONDS = 300  # Time to save a checkpoint.
_TASKS = """\
# One process a node has all of its GPUs: one set of data threads and one writer
# of checkpoints, where a process a GPU would have eight."""


def write(job: Job) -> str:
  """Writes the batch file, with this Python's environment, shared by nodes."""
  out = fields.local_folder('out', job.out)
  if '%' in str(out) or '\\' in str(out):  # Expanded by SLURM, even quoted.
    raise UserError(
      f"--out={out} cannot be a path of SLURM's logs: it has a "
      '% or a \\; choose another --out.',
      key='--out',
      value=str(out),
      allowed='paths without % and \\',
    )
  folder = fields.current_folder()
  python = fields.check_text("Python's path", sys.executable)
  quote = shlex.quote
  cpu = job.machines.kind == 'cpu'
  logs = out / 'logs'
  return templates.fill(
    f'slurm/{FILE}',
    {
      'title': f'{job.config} on {job.machines.name}, by sana-jax launch.',
      'name': job.name,
      'tasks': '' if cpu else _TASKS,
      'resources': '\n'.join(f'#SBATCH --{line}' for line in resources(job)),
      'log': quote(str(logs / 'job.log')),
      'warning_seconds': str(_WARNING_SECONDS),
      'folder': quote(folder),
      'exports': '\n'.join(
        f'export {key}={quote(value)}'
        for key, value in (environment(job) | _local_devices(job)).items()
      ),
      'supervise': shlex.join(
        [
          *module('sana_jax.launch.supervise', python),
          f'--workdir={job.workdir}',
          *policy_words(job.policy),
        ]
      ),
      'notes': quote(str(out / 'attempts')),
      'cpus': str(job.machines.devices) if cpu else '"$SLURM_CPUS_ON_NODE"',
      'logs': quote(str(logs / 'process-%t.log')),
      'train': shlex.join(
        [
          *module('sana_jax.launch.cli', python),
          *train_arguments(job, _distributed(job)),
        ]
      ),
    },
  )


def resources(job: Job) -> list[str]:
  """Options of sbatch: a process per node for GPUs; for CPUs as available."""
  machines = job.machines
  found = [f'ntasks={machines.processes}']
  if machines.kind == 'cpu':
    found += [f'cpus-per-task={machines.devices}']
  else:
    found += [
      f'nodes={machines.processes}',
      'ntasks-per-node=1',
      f'gpus-per-node={machines.devices}',
      'exclusive',
      'mem=0',
    ]
  given = {
    'time': job.time_limit,
    'partition': job.partition,
    'account': job.account,
  }
  return found + [
    f'{key}={shlex.quote(value)}' for key, value in given.items() if value
  ]


def submit(path: pathlib.Path) -> str:
  """Submits the file with sbatch; returns its output."""
  tools.require(
    'sbatch',
    f'{path} is written: run '
    f'{shlex.join(["sbatch", str(path)])} on a login node of the '
    'cluster',
  )
  (path.parent / 'logs').mkdir(exist_ok=True)
  output = tools.call(['sbatch', str(path)])
  return f'{output}; its logs are in {path.parent / "logs"}.'


def _distributed(job):
  return ['--distributed'] * (job.machines.processes > 1)


def _local_devices(job):
  """Argument for all GPUs: under SLURM, JAX defaults to one GPU per process."""
  if job.machines.kind != 'gpu':
    return {}
  return {
    'JAX_LOCAL_DEVICE_IDS': ','.join(map(str, range(job.machines.devices)))
  }
