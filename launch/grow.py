"""Make a transformer deeper, to train it further (SANA-1.5).

  sana-jax grow --from sana15_1600m_1024 --depth 60 --drop 2 --to grown
  sana-jax grow --from shapes --depth 12 --strategy cyclic --zero-gate --to deep

--from is a model folder, a hub id, a name that sana-jax zoo lists, or a file of
NVIDIA's, --to a new folder in diffusers' layout with the same other parts. The
last --drop blocks are left out, and new ones follow the others:

  constant       identities, by zero output projections; the paper's
  cyclic         copies of the first blocks, then the second, ...
  block_expand   copies beside each block; the depth is a multiple of theirs
  progressive    each the block before it, with noise
  interpolation  each between two trained blocks
  random         as in a model trained from nothing

Tensors are read and written one by one. docs/growing.md has measurements.
"""

import argparse

from sana_jax.errors import UserError
from sana_jax.launch import devices, output, writing
from sana_jax.launch.flags import text, whole

# Those of sana_jax.weights.growing, which takes seconds to import.
STRATEGIES = (
  'constant',
  'cyclic',
  'block_expand',
  'progressive',
  'interpolation',
  'random',
)
MOST_BLOCKS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  add_folders(parser)
  parser.add_argument(
    '--depth',
    required=True,
    type=whole(1, MOST_BLOCKS),
    metavar='N',
    help='number of blocks of the result',
  )
  parser.add_argument(
    '--strategy',
    default='constant',
    choices=STRATEGIES,
    help='initial values of new blocks (default: %(default)s)',
  )
  parser.add_argument(
    '--drop',
    default=0,
    type=whole(0, MOST_BLOCKS),
    metavar='N',
    help='number of last blocks that are left out; 2 of 20 in the paper '
    '(default: %(default)s)',
  )
  parser.add_argument(
    '--zero-gate',
    action='store_true',
    help='make the copies of cyclic and block_expand identities',
  )
  parser.add_argument(
    '--norms',
    action='store_true',
    help='add QK-norm to all attention layers, which changes the pictures',
  )
  parser.add_argument(
    '--seed',
    default=0,
    type=whole(0),
    metavar='N',
    help='of random values (default: %(default)s)',
  )


def add_folders(parser: argparse.ArgumentParser) -> None:
  """Declares --from and --to."""
  parser.add_argument(
    '--from',
    required=True,
    dest='source',
    metavar='NAME',
    type=text,
    help='a folder, a file, a hub id or a zoo name',
  )
  parser.add_argument(
    '--to',
    required=True,
    dest='target',
    metavar='DIR',
    type=text,
    help='a new folder',
  )


def run(args: argparse.Namespace) -> int:
  """Grows; returns the exit code."""
  output.check_new(args.target, '--to')
  devices.configure(1)
  from sana_jax.printable import counted
  from sana_jax.weights import blocks, exchange, growing, teachers

  source = open_transformer(args.source)
  part = source.parts['transformer']
  growth = growing.Growth(
    args.depth, args.strategy, args.drop, args.zero_gate, args.seed
  )
  made = exchange.Part(*growing.grown(*part, growth))
  if args.norms:
    made, _ = teachers.added(made, teachers.NORMS)
  parts = {**source.parts, 'transformer': made}
  source = exchange.Source(parts, source.folder)
  print(writing.write(source, args.target, 'diffusers', 'growing'))
  before = len(blocks.trained(*part)[1])
  print(
    f'{counted(before - args.drop, "block")} of {before}, and '
    f'{args.depth - before + args.drop} more by {args.strategy}'
  )
  return 0


def open_transformer(name: str):
  """The Source of a transformer, whose depth may change.

  Raises UserError for a model without one, and for one with a ControlNet.
  """
  from sana_jax.weights import exchange

  source = exchange.open_source(name)
  if 'transformer' not in source.parts:
    raise UserError(
      f'--from={name} has {", ".join(source.parts)} and no transformer; name a '
      'model of SANA.',
      key='--from',
      value=name,
      allowed=('transformer',),
    )
  if 'controlnet' in source.parts:
    raise UserError(
      f'--from={name} has a ControlNet, whose outputs belong to the blocks as '
      'they are; take the model without it.',
      key='--from',
      value=name,
      allowed='a model without a ControlNet',
    )
  return source
