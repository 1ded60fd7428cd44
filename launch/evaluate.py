"""Score how well a model follows prompts.

  sana-jax evaluate --model shapes --suite shapes

Suite `shapes`: prompts of the six GenEval kinds that were held out of
training; an exact detector decides whether each picture follows its prompt.
The chance column scores the same pictures against other prompts.
"""

import argparse
import dataclasses
import json

from sana_jax import files
from sana_jax.launch import control, evaluate_control, output, pipelines
from sana_jax.launch.flags import BATCH, whole
from sana_jax.printable import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--suite',
    default='shapes',
    choices=['shapes', 'control'],
    help='shapes, or control: scenes on free positions, with a ControlNet '
    '(default: %(default)s)',
  )
  parser.add_argument(
    '--per-kind',
    type=whole(1, 100_000),
    default=40,
    metavar='N',
    help='prompts of each of the six kinds (default: %(default)s)',
  )
  parser.add_argument(
    '--num-images',
    type=whole(1, 10_000),
    default=4,
    metavar='N',
    help='of each prompt (default: %(default)s)',
  )
  parser.add_argument(
    '--batch-size',
    type=whole(1, BATCH),
    default=96,
    metavar='N',
    help='pictures made at once (default: %(default)s)',
  )
  parser.add_argument(
    '--out',
    metavar='DIR',
    help='also write scores.json and a contact sheet there',
  )
  pipelines.add_sampling_arguments(parser)
  control.add_model_arguments(parser.add_argument_group('ControlNets'))


def run(args: argparse.Namespace) -> int:
  """Evaluates; returns the exit code."""
  if args.out:
    output.check(args.out)
  if args.suite == 'control':
    return evaluate_control.run(args)
  import numpy as np
  from tqdm import tqdm

  from sana_jax.evaluation import shapes_suite
  from sana_jax.inference import batches

  prompts = shapes_suite.prompts(args.per_kind, args.seed)
  # Each prompt has its own seed, so that no two share their noise.
  requests = [
    batches.Request(prompt.text, args.seed + i, k, args.negative_prompt)
    for i, prompt in enumerate(prompts)
    for k in range(args.num_images)
  ]
  requested = [p for p in prompts for _ in range(args.num_images)]
  pipe, settings = pipelines.open_pipeline(args)
  images = []
  with tqdm(total=len(requests), desc='pictures', unit='image') as bar:
    for chunk, made in batches.generate(
      pipe, requests, args.batch_size, **settings
    ):
      images += list(np.asarray(made))
      bar.update(len(chunk))
  scores = shapes_suite.score(images, requested)
  print(
    f'{args.model}: {counted(len(prompts), "held-out prompt")} x '
    f'{counted(args.num_images, "image")}, '
    f'{counted(settings["steps"], "step")}, guidance '
    f'{settings["guidance_scale"]}, seed {args.seed}'
  )
  print(shapes_suite.table(scores))
  if args.out:
    with output.folder(args.out) as out:
      write(out, args, settings, scores, images, requested)
  return 0


def write(out, args, settings, scores, images, requested) -> None:
  """Writes scores.json and the first pictures per kind, misses framed red."""
  from sana_jax.data.shapes import KINDS
  from sana_jax.evaluation import shapes_detector, shapes_suite
  from sana_jax.inference.images import contact_sheet, write_png

  record = {
    'model': args.model,
    'seed': args.seed,
    **settings,
    'images_per_prompt': args.num_images,
    'scores': {kind: dataclasses.asdict(s) for kind, s in scores.items()},
  }
  shown = []
  for kind in KINDS:
    rows = [i for i, p in enumerate(requested) if p.kind == kind]
    shown += rows[:: args.num_images][:8]
  wrong = [
    not shapes_suite.follows(
      requested[i].requirement, shapes_detector.detect(images[i])
    )
    for i in shown
  ]
  write_png(
    out / 'scores.png',
    contact_sheet(
      [images[i] for i in shown], [requested[i].text for i in shown], 8, wrong
    ),
  )
  files.write_text(out / 'scores.json', json.dumps(record, indent=2) + '\n')
