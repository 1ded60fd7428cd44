"""Predicts train steps as sana-jax plan does, and runs them.

  sana-jax bench plan --out docs/bench
  sana-jax bench plan --configs shapes,shapes:quick+batch_size=8
  sana-jax bench plan --configs sana_600m_512+batch_size=64,\\
sana_1600m_1024+batch_size=16+model.remat=full

Each config, with what +KEY=VALUE changes of it, has a process of its own, which
compiles the program that a plan is made of, for one device that is here;
predicts its seconds and memory at ceilings that it measures itself; and runs
it on random data. Prints both and the error. --out writes a JSON file and a
page of all that are there.
"""

import argparse
import datetime
import sys

from sana_jax.errors import UserError
from sana_jax.launch import bench, devices
from sana_jax.launch.flags import prompt, text, whole

FILES = 'plan-*.json'
# They differ in width, tokens, batch and remat; a laptop holds them.
_CONFIGS = ','.join([
  'shapes', 'shapes+batch_size=128+model.remat=full',
  'sana_600m_512+dtype=float32+model.depth=2+batch_size=4',
  'sana_1600m_1024+dtype=float32+model.depth=1+batch_size=1'])


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument('--configs', type=text, default=_CONFIGS,
                      metavar='FILE[:ARG][+KEY=VALUE...],...',
                      help='as of sana-jax train; +KEY=VALUE is its '
                      '--config.KEY=VALUE (default: %(default)s)')
  parser.add_argument('--repeats', type=whole(), default=5, metavar='N',
                      help='steps after two (default: %(default)s)')
  parser.add_argument('--note', type=prompt, default='', metavar='TEXT',
                      help='for the page: what else was running')
  parser.add_argument('--out', type=text, metavar='DIR',
                      help='folder for the JSON file and plan.md')
  parser.add_argument('--render', type=text, metavar='DIR',
                      help='writes the page of the JSON files of DIR again and '
                      'measures nothing')


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench import predicted_report
  if args.render:
    bench.write_pages(args.render, {'plan.md': (FILES, predicted_report)})
    return 0
  bench.check(args.out)
  result = measure(args)
  print(predicted_report.table(result))
  if all(r.failed for r in result.records):
    raise UserError('No step ran: ' + result.records[0].failed)
  bench.write(args.out, file_name(result), 'plan.md', FILES, predicted_report,
              result)
  return 0


def measure(args):
  """A Run of the report, with a line on the terminal for each config."""
  asked = [(name, config_of(name)) for name in args.configs.split(',')]
  import jax
  # This process only asks: it must not take the accelerator's memory.
  jax.config.update('jax_platforms', 'cpu')
  devices.configure(most=1)
  from sana_jax import tasks
  from sana_jax.tools.bench import predicted, predicted_report
  for _, config in asked:
    tasks.objective(config)  # Raises for what is no step.
  records = []
  for record in predicted.records(asked, args.repeats):
    records.append(record)
    said = record.failed or f'{record.best:.3g} s'
    print(f'{len(records)}/{len(asked)} {record.config}: {said}',
          file=sys.stderr)
  return predicted_report.Run(
    records, next((r.device for r in records if r.device), ''),
    datetime.date.today().isoformat(),
    bench.versions('sana_jax', 'jax', 'jaxlib'), bench.repeated_by(args),
    args.note)


def config_of(name: str):
  """The config of FILE[:ARG][+KEY=VALUE...]; UserError for a bad one."""
  from sana_jax import config as base
  from sana_jax.launch.config_files import load_config
  file, *changes = name.split('+')
  config = load_config(file)
  base.apply_overrides(config, [f'--config.{c}' for c in changes])
  base.check_keys(config)
  base.check(config)
  return config


def file_name(result) -> str:
  """Of the JSON file: one for each device."""
  from sana_jax.kernels import tuning
  return f'plan-{tuning.file_name(result.device)}'
