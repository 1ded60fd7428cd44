"""Times the training loop beside its compiled step alone.

  sana-jax bench loop --config shapes_dc_ae
  sana-jax bench loop --config shapes --config.autoencoder=shapes \\
    --config.text_encoder=shapes --config.data.examples=2000
  sana-jax bench loop --config shapes_dc_ae --config.data.source=folder \\
    --config.data.path=photos --out docs/bench

A run of sana-jax train, with its data, log and checkpoints, takes turns with a
bare loop that calls the same step on one batch. Prints both speeds, their
ratio and the share of time that was spent waiting for data. --out writes a JSON
file and a page of all that are there.
"""

import argparse
from collections.abc import Sequence
import datetime
import tempfile

from sana_jax.errors import UserError
from sana_jax.launch import bench, devices
from sana_jax.launch.flags import prompt, text, whole

FILES = 'loop-*.json'
OVERRIDES = True  # Takes --config.key=value.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument('--config', default='shapes', metavar='FILE[:ARG]',
                      help='as of sana-jax train (default: %(default)s)')
  parser.add_argument('--steps', type=whole(), default=100, metavar='N',
                      help='of a block (default: %(default)s)')
  parser.add_argument('--rounds', type=whole(), default=4, metavar='N',
                      help='blocks with a checkpoint, and as many without '
                      '(default: %(default)s)')
  parser.add_argument('--workdir', type=text, metavar='DIR',
                      help='of a training, whose latents and text are used if '
                      'the data are the same; nothing else there is touched')
  parser.add_argument('--note', type=prompt, default='', metavar='TEXT',
                      help='for the page: what else was running')
  parser.add_argument('--out', type=text, metavar='DIR',
                      help='folder for the JSON file and loop.md')
  parser.add_argument('--render', type=text, metavar='DIR',
                      help='writes the page of the JSON files of DIR again and '
                      'measures nothing')


def run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench import loop_report
  if args.render:
    bench.write_pages(args.render, {'loop.md': (FILES, loop_report)})
    return 0
  bench.check(args.out)
  result = measure(args, overrides)
  print(loop_report.table(result))
  bench.write(args.out, file_name(result), 'loop.md', FILES, loop_report,
              result)
  return 0


def measure(args, overrides):
  """A Run of the report."""
  from sana_jax import config as base
  from sana_jax.launch.config_files import load_config
  config = load_config(args.config)
  base.apply_overrides(config, overrides)
  base.check_keys(config)
  base.check(config)
  devices.configure()
  from sana_jax import tasks
  from sana_jax.analysis import device
  from sana_jax.sharding.mesh import make_mesh
  from sana_jax.tools.bench import loop, loop_report
  mesh = make_mesh(config.mesh.to_dict())
  if mesh.is_multi_process:
    raise UserError('bench loop is for one process.')
  with tempfile.TemporaryDirectory(prefix='bench_loop') as folder:
    task = tasks.open_task(config, args.workdir or folder)
    found = loop.measure(config, task, folder, mesh, steps=args.steps,
                         rounds=args.rounds)
  return loop_report.Run(
    args.config, config.data.source, config.batch_size, found.run, found.bare,
    found.threads, config.checkpoint_every_steps, dict(mesh.shape),
    datetime.date.today().isoformat(), device.name(),
    bench.versions('sana_jax', 'jax', 'grain'),
    ' '.join([bench.repeated_by(args), *overrides]), args.note)


def file_name(result) -> str:
  """Of the JSON file: one for each config, source of data and device."""
  from sana_jax.kernels import tuning
  config = result.config.rpartition('/')[2].replace('.py', '')
  return '-'.join(['loop', config.replace(':', '-'), result.data,
                   tuning.file_name(result.device)])
