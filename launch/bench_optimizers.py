"""Counts the bytes of every optimizer's state, and what 8-bit CAME loses.

  sana-jax bench optimizers
  sana-jax bench optimizers --models sana_1600m_1024 --steps 0
  sana-jax bench optimizers --out docs/bench

Bytes come from shapes: nothing is allocated. What bytes lose is measured on
CAME's momentum after some steps of one block of --block-of, on random data;
--steps 0 leaves that out. --out writes a JSON file and a page of all that are
there.
"""

import argparse
import datetime

from sana_jax.launch import bench, devices
from sana_jax.launch.flags import text, whole

FILES = 'optimizers-*.json'
_MODELS = 'sana_600m_1024,sana_1600m_1024,sana15_4800m_1024'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument('--models', default=_MODELS, type=text, metavar='A,B',
                      help='sizes of sana_jax.config (default: %(default)s)')
  parser.add_argument('--block-of', default='sana_1600m_1024', metavar='NAME',
                      help='the size whose block is trained (default: '
                      '%(default)s)')
  parser.add_argument('--steps', type=whole(0), default=20, metavar='N',
                      help='of each training (default: %(default)s)')
  parser.add_argument('--out', type=text, metavar='DIR',
                      help='folder for the JSON file and optimizers.md')
  parser.add_argument('--render', type=text, metavar='DIR',
                      help='writes the page of the JSON files of DIR again and '
                      'measures nothing')


def run(args: argparse.Namespace) -> int:
  """Counts, measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench import optimizers_report
  if args.render:
    bench.write_pages(
      args.render, {'optimizers.md': (FILES, optimizers_report)})
    return 0
  bench.check(args.out)
  result = measure(args)
  print(optimizers_report.table(result))
  bench.write(args.out, file_name(result), 'optimizers.md', FILES,
              optimizers_report, result)
  return 0


def measure(args):
  """A Run of the report."""
  devices.configure(most=1)
  from sana_jax.analysis import device
  from sana_jax.tools.bench import optimizers, optimizers_report
  models = args.models.split(',')
  for model in (*models, args.block_of):
    optimizers.objective_of(model)  # Raises for an unknown one.
  return optimizers_report.Run(
    optimizers.states(models),
    optimizers.roundings(args.block_of, args.steps) if args.steps else [],
    args.block_of, args.steps, datetime.date.today().isoformat(),
    device.name(), bench.versions('sana_jax', 'jax', 'optax'),
    bench.repeated_by(args))


def file_name(result) -> str:
  """Of the JSON file: one for each device and trained block."""
  from sana_jax.kernels import tuning
  trained = [result.trained] if result.roundings else []
  return '-'.join(['optimizers', tuning.file_name(result.device), *trained])
