"""Leave out the least important blocks of a transformer (SANA-1.5).

  sana-jax prune --from sana15_4800m_1024 --depth 40 --to pruned
  sana-jax prune --from shapes --depth 4 --importance 5-importance.json --to 4

The importance of a block is 1 - the cosine similarity of its input and output,
mean over prompts, times and tokens. It is measured on the model's own pictures
of the prompts, on captioned images (--data), or on noise alone, and is written
beside the new folder, as DIR-importance.json and .png. A pruned model needs
training: --config sana15_recover. docs/growing.md has measurements.
"""

import argparse
import contextlib
import json

from sana_jax.errors import UserError
from sana_jax.launch import devices, grow, output, pipelines, writing
from sana_jax.launch.flags import BATCH, refused, text, whole

_MOST_IMAGES = 1000  # Of --data, in the order of their names.


def _blocks(value):
  """Indices of blocks, with commas between them."""
  try:
    return [int(x) for x in value.split(',')]
  except ValueError:
    raise refused(value, 'numbers of blocks, such as 0,1,5') from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  grow.add_folders(parser)
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument(
    '--depth',
    type=whole(1, grow.MOST_BLOCKS),
    metavar='N',
    help='number of blocks to keep',
  )
  which.add_argument(
    '--keep',
    type=_blocks,
    metavar='I,...',
    help='the blocks to keep, counted from 0, without any measurement',
  )
  group = parser.add_argument_group('measurement')
  group.add_argument(
    '--importance',
    type=text,
    metavar='FILE',
    help='JSON file of an earlier measurement, instead of a new one',
  )
  group.add_argument(
    '--prompts',
    metavar='FILE',
    help="a .txt, .jsonl, .csv or .parquet file (default: the model's "
    'examples, else 20 prompts of ours)',
  )
  group.add_argument(
    '--data',
    type=text,
    metavar='DIR',
    help='folder of captioned images, instead of prompts and pictures',
  )
  group.add_argument(
    '--latents',
    choices=['pictures', 'noise'],
    default='pictures',
    help="the model's own pictures, or noise (default: %(default)s)",
  )
  group.add_argument(
    '--num-images',
    type=whole(1, 10_000),
    default=4,
    metavar='N',
    help='of each prompt (default: %(default)s)',
  )
  group.add_argument(
    '--levels',
    type=whole(1, 1000),
    default=20,
    metavar='N',
    help='times, from noise to data (default: %(default)s)',
  )
  group.add_argument(
    '--batch-size',
    type=whole(1, BATCH),
    default=8,
    metavar='N',
    help='latents at once, each in memory after every block (default: '
    '%(default)s)',
  )
  group.add_argument(
    '--seed', type=whole(0), default=0, metavar='N', help='default: %(default)s'
  )
  pipelines.add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
  """Prunes; returns the exit code."""
  output.check_new(args.target, '--to')
  # The files of the measurement.
  files = {x: f'{args.target}-importance{x}' for x in ('.json', '.png')}
  if not args.keep:
    for path in files.values():
      output.check_new(path, '--to')
  devices.configure(args.cpu_devices)
  from sana_jax.evaluation import importance
  from sana_jax.weights import blocks, exchange

  source = grow.open_transformer(args.source)
  part = source.parts['transformer']
  depth = len(blocks.trained(*part)[1])
  kept, record = args.keep, {}
  if not kept:
    importance.most_important([0.0] * depth, args.depth)  # Checked at once.
    record = _read(args, depth) if args.importance else _measured(args)
    kept = importance.most_important(record['importance'], args.depth)
  made = exchange.Part(*blocks.selected(*part, kept))
  parts = {**source.parts, 'transformer': made}
  source = exchange.Source(parts, source.folder)
  line = writing.write(source, args.target, 'diffusers', 'pruning')
  if record:
    _write(files, record, sorted(kept))
  print(line)
  print(_table(record.get('importance', [None] * depth), kept))
  return 0


def _write(files, record, kept):
  """Writes the curve as JSON and PNG."""
  from sana_jax.files import atomically, write_text
  from sana_jax.tools import plots

  write_text(
    files['.json'], json.dumps({**record, 'kept': kept}, indent=2) + '\n'
  )
  title = f'Importance of the {len(record["importance"])} blocks'
  with atomically(files['.png']) as part:
    part.write_bytes(plots.chosen(record['importance'], kept, title))


def _table(values, kept):
  """A line for each block."""
  lines = ['block  importance']
  for i, value in enumerate(values):
    shown = '' if value is None else f'{value:.4g}'
    lines.append(f'{i:5}  {shown:10}  {"kept" if i in kept else "left out"}')
  return '\n'.join(lines)


def _read(args, depth):
  """The record of an earlier measurement."""
  from sana_jax.files import read_json

  try:
    record = read_json(args.importance)
  except FileNotFoundError:
    raise UserError(
      f'--importance={args.importance} does not exist; name the JSON file of '
      'an earlier sana-jax prune.',
      key='--importance',
      value=args.importance,
      allowed='existing files',
    ) from None
  values = record.get('importance')
  if (
    not isinstance(values, list)
    or len(values) != depth
    or not all(type(x) in (int, float) and abs(x) < 10 for x in values)
  ):
    raise UserError(
      f'--importance={args.importance} does not have the importance of each of '
      f'the {depth} blocks; measure it again.',
      key='--importance',
      value=args.importance,
      allowed=f'{depth} numbers',
    )
  return record


def _measured(args):
  """The record of a new measurement."""
  import jax
  import numpy as np
  from tqdm import tqdm

  from sana_jax.evaluation import importance
  from sana_jax.inference.pipeline import Pipeline
  from sana_jax.sharding.mesh import make_mesh

  pipe = Pipeline.from_pretrained(
    args.source,
    args.dtype,
    make_mesh(args.mesh, jax.local_devices()),
    encoder=bool(args.data),
  )
  prompts, data = _inputs(args, pipe)
  with tqdm(
    total=len(prompts) * args.levels, desc='measuring', disable=None
  ) as bar:
    values = importance.measure(
      pipe,
      prompts,
      data,
      levels=args.levels,
      seed=args.seed,
      batch_size=args.batch_size,
      on_level=bar.update,
    )
  if not np.isfinite(values).all():
    raise UserError(
      f'The activations of {args.source} are not finite; measure in another '
      '--dtype.',
      key='--dtype',
      value=args.dtype,
      allowed=('float32', 'bfloat16'),
    )
  return {
    'model': args.source,
    'latents': args.data or args.latents,
    'prompts': len(set(prompts)),
    'count': len(prompts),
    'levels': args.levels,
    'seed': args.seed,
    'importance': [float(x) for x in values],
  }


def _inputs(args, pipe):
  """(prompts, one for each latent; the latents, or where they come from)."""
  from sana_jax.evaluation import importance

  if args.data:
    return _of_data(args, pipe)
  if args.prompts:
    from sana_jax.inference import jobs

    found, problems = jobs.read(args.prompts, jobs.Job(''))
    if problems:
      raise UserError(
        f'--prompts={args.prompts}, line {problems[0].line}: '
        f'{problems[0].reason}',
        key='--prompts',
        value=args.prompts,
      )
    prompts = [job.prompt for job in found]
  else:
    prompts = list(pipe.vocabulary.examples or importance.PROMPTS)
  return [p for p in prompts for _ in range(args.num_images)], args.latents


def _of_data(args, pipe):
  """Captions of the images of a folder, and their latents."""
  import numpy as np

  from sana_jax.data.records import BadRecord
  from sana_jax.data.sources import open_source
  from sana_jax.inference import input_image

  source = open_source('folder', path=args.data, size=pipe.size_px)
  records = []
  for i in range(min(len(source), _MOST_IMAGES)):
    with contextlib.suppress(BadRecord):
      records.append(source[i])
  latents = [
    np.asarray(input_image.encoded(pipe.autoencoder, record['image']))
    for record in records
  ]
  return [record['caption'] for record in records], np.concatenate(latents)
