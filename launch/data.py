"""Prepare, describe and encode data sets.

  sana-jax data shapes --out data --size 64 --examples 24000
  sana-jax data describe --config.data.source=webdataset \\
    --config.data.path='data/*.tar'
  sana-jax data cache --config configs/shapes.py --out out/cache \\
    --config.autoencoder=shapes --config.text_encoder=shapes

`shapes` is drawn locally, without a download, and is stored as a TFDS data set
(ArrayRecord) with the splits train and heldout, with a sheet of examples.
`describe` summarises a source under the keys config.data of a config, or their
defaults: number, sizes and scores of records, captions, and the first bad
records. `cache` stores the frozen models' outputs for the images and captions
of a config, for training with --config.inputs.cache=DIR: on all devices, and
with --distributed on many hosts. If interrupted, the same command resumes.
"""

import argparse
from collections.abc import Sequence

from sana_jax import locks
from sana_jax.errors import UserError
from sana_jax.launch import output
from sana_jax.launch.devices import add_device_flags, join
from sana_jax.launch.flags import BATCH, whole
from sana_jax.printable import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommands and their flags."""
  kinds = parser.add_subparsers(metavar='WHAT', required=True, dest='what')
  for name, about, declare in (
    ('shapes', 'draw a data set', _shapes),
    ('describe', 'summarise a source', _describe),
    ('cache', 'encode images and captions once', _cache),
  ):
    declare(
      kinds.add_parser(
        name,
        help=about,
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
      )
    )


def _shapes(parser):
  parser.add_argument(
    '--out',
    default='~/.cache/sana_jax/data',
    metavar='DIR',
    help='TFDS data folder (default: %(default)s)',
  )
  parser.add_argument(
    '--size',
    type=whole(16, 4096),
    default=64,
    metavar='PX',
    help='side of the images (default: %(default)s)',
  )
  parser.add_argument(
    '--examples',
    type=whole(1, 10**8),
    default=24_000,
    metavar='N',
    help='of the train split (default: %(default)s)',
  )
  parser.set_defaults(run_data=prepare, command=parser)


def _describe(parser):
  parser.add_argument(
    '--config',
    metavar='FILE[:ARG]',
    help='whose data keys to take (default: their own '
    'defaults); --config.data.KEY=VALUE changes them',
  )
  parser.add_argument(
    '--read',
    type=whole(1, 10**6),
    default=100,
    metavar='N',
    help='records to decode (default: %(default)s)',
  )
  parser.set_defaults(run_data=describe_data, command=parser, overrides=True)


def _cache(parser):
  parser.add_argument(
    '--config',
    required=True,
    metavar='FILE[:ARG]',
    help='whose data, models and inputs to take; '
    '--config.KEY=VALUE changes them',
  )
  parser.add_argument(
    '--out',
    required=True,
    metavar='DIR',
    help='the folder of the cache; gs:// and s3:// too',
  )
  parser.add_argument(
    '--batch-size',
    type=whole(1, BATCH),
    default=64,
    metavar='N',
    help='images or captions at a time on all devices of a '
    'process (default: %(default)s)',
  )
  parser.add_argument(
    '--shard-records',
    type=whole(1, 10**6),
    default=1024,
    metavar='N',
    help='in a file (default: %(default)s)',
  )
  add_device_flags(parser)
  parser.set_defaults(run_data=cache_data, command=parser, overrides=True)


def run(args: argparse.Namespace, overrides: Sequence[str] = ()) -> int:
  """Runs the subcommand; returns the exit code."""
  return args.run_data(args, overrides)


def prepare(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Draws `shapes`; returns the exit code."""
  from sana_jax.data import sources
  from sana_jax.inference.images import contact_sheet, write_png

  del overrides
  output.check(args.out)
  with (
    output.folder(args.out) as out,
    locks.hold(locks.within(out), 'drawing shapes', '--out'),
  ):
    source = sources.open_source(
      'shapes', path=out, size=args.size, train_examples=args.examples
    )
    examples = [source[i] for i in range(min(24, len(source)))]
    sheet = out / f'shapes-{args.size}.png'
    write_png(
      sheet,
      contact_sheet(
        [x['image'] for x in examples], [x['caption'] for x in examples], 6
      ),
    )
  print(
    f'{counted(len(source), "training example is", "training examples are")} '
    f'in {out}; {counted(len(examples), "of them is", "of them are")} drawn '
    f'in {sheet}.'
  )
  return 0


def describe_data(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Prints a summary of a source; returns the exit code."""
  from sana_jax import config as base
  from sana_jax.data.describe import description
  from sana_jax.launch.config_files import load_config
  from sana_jax.tasks import common

  config = load_config(args.config) if args.config else base.train('dc_ae')
  base.apply_overrides(config, overrides)
  base.check_keys(config)
  base.check(config)
  for line in description(common.open_data(config.data), args.read):
    print(line)
  return 0


def cache_data(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Creates a cache, or completes one; returns the exit code."""
  from sana_jax.launch import devices
  from sana_jax.launch.config_files import checked_config

  config = checked_config(args.config, overrides)
  if config.task != 'sana':
    raise UserError(
      f'--config={args.config} is of the task {config.task!r}; '
      "a cache holds inputs of the task 'sana'.",
      key='--config',
      value=config.task,
      allowed=('sana',),
    )
  output.check_place(args.out)
  devices.configure(args.cpu_devices)
  if args.distributed is not None:
    join(args.distributed, asks_to_stop=False)
  from sana_jax.launch import terminal
  from sana_jax.tasks.sana import caching

  terminal.show_logs()
  held = caching.make(
    config,
    args.out,
    shard_records=args.shard_records,
    batch_size=args.batch_size,
  )
  print(
    f'{summary(args.out, held)} Train with --config.inputs.cache={args.out}'
  )
  return 0


def summary(out: str, held: dict) -> str:
  """One-line summary of a cache."""
  from sana_jax.data import cache, captions, files

  found = [
    size
    for name, (size, _) in files.list_recursively(out).items()
    if name.endswith('.safetensors')
  ]
  usable = cache.CachedSource(out, captions.CaptionRule(), want=()).usable
  return (
    f'{usable:,} of {counted(held["records"], "record is", "records are")} in '
    f'{counted(len(found), "file")} '
    f'of {sum(found) / 1e6:,.1f} MB in {out}.'
  )
