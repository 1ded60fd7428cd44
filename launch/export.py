"""Write the weights of a run as a model folder, during the run or later.

  sana-jax export --workdir out/run --to out/model
  sana-jax export --workdir gs://bucket/run --step 20000 --weights params \\
    --to out/raw

The folder is in diffusers' layout, for sana-jax and diffusers alike. It reads
only a checkpoint, whose checksums are verified, requires neither training data
nor an accelerator, and does not change the workdir. An unfinished DC-AE gets
the config's scaling factor.

Its README.md is a model card with facts of the run, the workdir's scores.json
(see sana-jax evaluate --out) and its newest samples; sana-jax push uploads it.
"""

import argparse

from sana_jax.errors import UserError
from sana_jax.launch import devices, output, pipelines
from sana_jax.launch.flags import text, whole
from sana_jax.printable import counted


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
    help='step of the checkpoint (default: the newest)',
  )
  parser.add_argument(
    '--weights',
    choices=['ema', 'params'],
    help='the average, or the raw ones (default: the '
    'average where the run keeps one)',
  )
  parser.add_argument(
    '--license',
    metavar='ID',
    type=text,
    help='for the model card, such as apache-2.0 (default: that of the base '
    "model's card, else not stated)",
  )
  pipelines.add_lora(parser)


def run(args: argparse.Namespace) -> int:
  """Exports; returns the exit code."""
  devices.configure(1)
  from sana_jax import tasks
  from sana_jax.tasks import cards, exports
  from sana_jax.training import run_config
  from sana_jax.training import workdir as workdirs
  from sana_jax.weights import card

  card.check_licence(args.license)
  target = workdirs.resolve(args.target)
  _check(args.target, target, workdirs)
  config = run_config.read_config(args.workdir)
  workdir = workdirs.resolve(args.workdir)
  checkpoint = exports.find(workdir, args.step)
  exporter = tasks.exporter(config)
  params = exports.read(checkpoint, args.weights, config, exporter)
  weights = args.weights or ('ema' if config.ema_decay else 'params')
  with workdirs.new_folder(target, '--to') as part:
    _check(args.target, target, workdirs)  # It may exist by now.
    exporter.write(params, part)
    if args.lora:
      _fuse(part, args)
    about = int(checkpoint.name), weights, config, params
    cards.write(part, workdir, *about, args.license)
  missed = exports.skipped(checkpoint)
  note = (
    f'; {counted(missed, "update was", "updates were")} not finite and skipped'
  )
  print(
    f'{args.target}: step {checkpoint.name} of {args.workdir}'
    + note * bool(missed)
  )
  return 0


def _fuse(folder, args):
  """Merges the adapters of --lora into the transformer that was written."""
  from sana_jax.weights.lora import fusing

  if not (folder / 'transformer').is_dir():
    raise UserError(
      f'--lora: {args.workdir} has no transformer to merge adapters into.',
      key='--lora',
      value=args.workdir,
    )
  fusing.fuse_folder(folder, args.lora)


def _check(name, target, workdirs):
  if workdirs.is_remote(target):
    if target.exists():
      raise UserError(
        f'--to={name} exists; choose another name, or remove it first.',
        key='--to',
        value=name,
      )
  else:
    output.check_new(name, '--to')
