"""Write the weights of a run as a model folder, while it goes on or later.

  sana-jax export --workdir out/run --to out/model
  sana-jax export --workdir gs://bucket/run --step 20000 --weights params \\
    --to out/raw

The folder is in diffusers' layout, for sana-jax and diffusers alike. Only a
checkpoint is read, which is compared with its checksums: no training data, no
accelerator, and nothing in the workdir is changed. Of a DC-AE that is not done,
the scaling factor is the config's.
"""

import argparse

from sana_jax.errors import UserError
from sana_jax.launch import devices, output
from sana_jax.launch.flags import text, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--workdir',
    required=True,
    metavar='DIR',
    type=text,
    help='the folder of the run',
  )
  parser.add_argument(
    '--to',
    required=True,
    dest='target',
    metavar='DIR',
    type=text,
    help='a new folder',
  )
  parser.add_argument(
    '--step',
    type=whole(),
    metavar='N',
    help='of which checkpoint (default: the newest)',
  )
  parser.add_argument(
    '--weights',
    choices=['ema', 'params'],
    help='the average, or the raw ones (default: the '
    'average where the run keeps one)',
  )


def run(args: argparse.Namespace) -> int:
  """Exports; returns the exit code."""
  devices.configure(1)
  from sana_jax import tasks
  from sana_jax.tasks import exports
  from sana_jax.training import run_config
  from sana_jax.training import workdir as workdirs

  target = workdirs.resolve(args.target)
  _check(args.target, target, workdirs)
  config = run_config.read_config(args.workdir)
  checkpoint = exports.find(workdirs.resolve(args.workdir), args.step)
  exporter = tasks.exporter(config)
  params = exports.read(checkpoint, args.weights, config, exporter)
  with workdirs.new_folder(target, '--to') as part:
    _check(args.target, target, workdirs)  # Another may have made it meanwhile.
    exporter.write(params, part)
  missed = exports.skipped(checkpoint)
  note = f'; {missed:,} updates were not finite and were skipped'
  print(
    f'{args.target}: step {checkpoint.name} of {args.workdir}'
    + note * bool(missed)
  )
  return 0


def _check(name, target, workdirs):
  if workdirs.is_remote(target):
    if target.exists():
      raise UserError(
        f'--to={name} exists; choose another name, or remove it first.'
      )
  else:
    output.check_new(name, '--to')
