"""Prepare data sets.

  sana-jax data shapes --out data --size 64 --examples 24000

`shapes` is drawn here, needs no download, and is stored as a TFDS data set
(ArrayRecord) with the splits train and heldout. A sheet of examples is written
beside it.
"""

import argparse

from sana_jax.launch import output
from sana_jax.launch.flags import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument('name', choices=['shapes'], help='which data set')
  parser.add_argument('--out', default='~/.cache/sana_jax/data', metavar='DIR',
                      help='TFDS data folder (default: %(default)s)')
  parser.add_argument('--size', type=whole(16), default=64, metavar='PX',
                      help='side of the images (default: %(default)s)')
  parser.add_argument('--examples', type=whole(), default=24_000, metavar='N',
                      help='of the train split (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
  """Prepares the data; returns the exit code."""
  from sana_jax.data import sources
  from sana_jax.inference.images import contact_sheet, write_png
  output.check(args.out)
  with output.folder(args.out) as out:
    source = sources.open_source(
      'shapes', path=out, size=args.size, train_examples=args.examples)
    examples = [source[i] for i in range(min(24, len(source)))]
    sheet = out / f'shapes-{args.size}.png'
    write_png(sheet, contact_sheet(
      [x['image'] for x in examples], [x['caption'] for x in examples], 6))
  print(f'{len(source)} training examples are in {out}; {len(examples)} of '
        f'them are drawn in {sheet}.')
  return 0
