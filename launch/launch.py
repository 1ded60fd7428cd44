"""Train on many processes: on this machine, SLURM, GKE or Cloud TPU VMs.

  sana-jax launch --where local --topology cpu:2x4 --workdir out/run \\
    --config shapes_text_encoder
  sana-jax launch --where slurm --topology h200:1x8x8 --layout fsdp \\
    --config sana_1600m_1024 --workdir /shared/run --time-limit 24:00:00 \\
    --config.inputs.cache=/shared/cache
  sana-jax launch --where gke --topology v6e:16x16@2 --layout hybrid \\
    --config sana_1600m_1024 --workdir gs://bucket/run --image IMAGE \\
    --config.inputs.cache=gs://bucket/cache
  sana-jax launch --where tpu-vm --topology v5p:4x4x8 --zone us-east5-a \\
    --config sana_1600m_1024 --workdir gs://bucket/run --image IMAGE --spot \\
    --config.inputs.cache=gs://bucket/cache

Checks first that the hosts can have the paths of the run: data, encoders and
workdir are in a bucket or in a folder that all hosts share. Compiles the step
for these chips (sana-jax plan) and stops if it does not fit. Job files are
written to --out and submitted with sbatch, kubectl or gcloud; --dry-run prints
them instead. A run that ends early is restarted from its newest checkpoint
until restarts make no progress. See docs/launching.md.
"""

import argparse
from collections.abc import Sequence
import pathlib
import re
import shlex

from sana_jax import files, interpreter
from sana_jax.errors import UserError
from sana_jax.launch import (
  gke,
  launch_plan,
  locations,
  output,
  slurm,
  supervise,
  tpu_vm,
)
from sana_jax.launch.config_files import (
  apply_layout,
  CONFIGS,
  finish,
  load_config,
)
from sana_jax.launch.flags import text
from sana_jax.launching import fields, local, machines
from sana_jax.launching import job as jobs

OVERRIDES = True  # Takes --config.key=value.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  add = lambda flag, metavar, about, **more: parser.add_argument(
    flag, type=text, metavar=metavar, help=about, **more
  )
  add('--where', '|'.join(jobs.PLACES), 'the place', required=True)
  add('--config', 'FILE[:ARG]', 'as of sana-jax train', required=True)
  add(
    '--topology',
    'PODS',
    'as of sana-jax plan, such as h200:1x8x8 or '
    'v6e:16x16@2; or cpu:PROCESSESxDEVICES',
    required=True,
  )
  add('--workdir', 'DIR', 'run folder, shared by all processes', required=True)
  add('--layout', 'NAME', 'as of sana-jax train')
  add('--out', 'DIR', 'folder of the job files (default: out/launch/NAME)')
  add('--name', 'NAME', "name of the job (default: the config's)")
  parser.add_argument(
    '--dry-run',
    action='store_true',
    help='print files and commands, run nothing',
  )
  parser.add_argument(
    '--no-plan', action='store_true', help='skip the memory check'
  )
  supervise.add_policy_flags(parser)
  for flag, metavar, about in (
    ('--partition', 'NAME', 'slurm'),
    ('--account', 'NAME', 'slurm'),
    ('--time-limit', 'TIME', 'slurm: as sbatch takes it'),
    ('--image', 'IMAGE', 'gke, tpu-vm: made from launch/Containerfile'),
    ('--zone', 'ZONE', 'tpu-vm, gke with --xpk'),
    ('--project', 'NAME', 'tpu-vm, gke with --xpk'),
    ('--cluster', 'NAME', 'gke with --xpk'),
  ):
    add(flag, metavar, about)
  add(
    '--mount',
    '[CLAIM:]/PATH',
    'folder that all hosts have, of a persistent volume claim for gke; may be '
    'repeated',
    action='append',
  )
  add(
    '--hf-token-secret',
    'NAME[:KEY]',
    'gke: secret with a token of the hub, for gated models (default of KEY: '
    'hf_api_token)',
  )
  parser.add_argument(
    '--spot',
    action='store_true',
    help='gke, tpu-vm: preemptible machines',
  )
  parser.add_argument(
    '--xpk',
    action='store_true',
    help="gke: print xpk's command instead of a JobSet",
  )


def run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Launches; returns the exit code."""
  job = make(args, overrides)
  jobs.check(job)
  check_flags(args, job)
  config = load(job)
  locations.check(job, config)
  if not (args.no_plan or job.machines.kind == 'cpu'):
    launch_plan.check_fits(job, config)
  if args.xpk:
    print(gke.xpk(job))
    return 0
  if job.where == 'local':
    return start_here(job, args.dry_run)
  return hand_over(job, args.dry_run)


def make(args, overrides) -> jobs.Job:
  """Returns the job that the arguments specify."""
  name = default_name(args.config) if args.name is None else args.name
  fields = {
    key: getattr(args, key)
    for key in (
      'where',
      'config',
      'workdir',
      'layout',
      'image',
      'time_limit',
      'partition',
      'account',
      'cluster',
      'zone',
      'project',
      'spot',
      'hf_token_secret',
    )
  }
  return jobs.Job(
    name=name,
    machines=machines.parse(args.topology),
    out=f'out/launch/{name}' if args.out is None else args.out,
    overrides=tuple(overrides),
    policy=supervise.policy_of(args),
    mount=tuple(path.rstrip('/') for path in args.mount or ()),
    **fields,
  )


def default_name(config: str) -> str:
  """Job name from the config's file, valid as a host name."""
  stem = pathlib.Path(config.partition(':')[0]).stem.lower()
  return re.sub('[^a-z0-9]+', '-', stem).strip('-')[:40].strip('-') or 'run'


def check_flags(args, job) -> None:
  """Raises UserError for another place's flags, or files not in the image."""
  if args.xpk and job.where != 'gke':
    raise UserError(
      f'--xpk is not for --where={job.where} but for gke.',
      key='--xpk',
      value=job.where,
      allowed=('gke',),
    )
  own = ('cluster', 'zone', 'project') if job.where == 'gke' else ('cluster',)
  if not args.xpk and (idle := [key for key in own if getattr(job, key)]):
    raise UserError(
      '--cluster, --zone and --project are for --xpk; kubectl '
      'takes the cluster that it is set to.',
      key=f'--{idle[0]}',
      value=getattr(job, idle[0]),
    )
  if args.xpk and job.hf_token_secret:
    raise UserError(
      '--hf-token-secret is not for --xpk; add --env=HF_TOKEN=... to its '
      'command.',
      key='--hf-token-secret',
      value=job.hf_token_secret,
    )
  if job.image:
    for flag, name, folder in (
      ('config', job.config.partition(':')[0], CONFIGS),
      ('layout', job.layout, CONFIGS / 'layouts'),
    ):
      shipped = sorted(p.stem for p in folder.glob('[!_]*.py'))
      if name and name not in shipped:
        raise UserError(
          f'--{flag}={name} is a file of this machine, which the image does '
          f'not have; name a shipped one ({", ".join(shipped)}), or put it '
          'beside them before the image is built.',
          key=f'--{flag}',
          value=name,
          allowed=shipped,
        )
  if job.where == 'local':
    output.check(str(local.folder(job)))
  else:
    output.check(str(fields.local_folder('out', job.out)))


def load(job):
  """Loads the config, checked here rather than on every host."""
  config = load_config(job.config)
  if job.layout:
    apply_layout(config, job.layout)
  finish(config, job.overrides)
  return config


def start_here(job, dry_run) -> int:
  """Starts the processes on this machine."""
  if dry_run:
    logs = local.folder(job) / 'logs'
    for process in local.processes(job, ['sana-jax'], logs):
      env = [f'{key}={value}' for key, value in process.env.items()]
      print(
        f'{shlex.join([*env, *process.command])} '
        f'>>{shlex.quote(str(process.log))} 2>&1'
      )
    return 0
  from sana_jax.launch import terminal

  terminal.show_logs()
  return local.launch(job, interpreter.module('sana_jax.launch.cli'))


def hand_over(job, dry_run) -> int:
  """Writes the job files and submits them."""
  place, then = {
    'slurm': (slurm, slurm.submit),
    'gke': (gke, gke.apply),
    'tpu-vm': (tpu_vm, tpu_vm.execute),
  }[job.where]
  script = place.write(job)
  if dry_run:
    print(script, end='')
    return 0
  # Absolute, so that no tool reads it as an option.
  with output.folder(str(fields.local_folder('out', job.out))) as out:
    files.write_text(out / place.FILE, script)
  print(then(out / place.FILE))
  return 0
