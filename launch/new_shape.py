"""Teach the shipped model a shape from eight pictures, and score it.

  python -m sana_jax.launch.new_shape --out out/diamond --seeds 0 1 2
  python -m sana_jax.launch.new_shape --out out/direct --model shapes-sprint

For each seed, with and without prior preservation: writes the pictures and
their captions, trains a LoRA by configs/finetune_lora.py, and scores it on
prompts with one such object, on compositions with it, and on the held-out
prompts of the other shapes; then the same adapter with `shapes-sprint`, of
which alone an adapter that was trained on it is scored. A finished run is not
repeated.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import time

from sana_jax.launch.config_files import load_config

COUNT = 8  # Pictures.
SPRINT = 'shapes-sprint'
SPRINT_STEPS = 1, 2, 4


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing and prints all scores; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m sana_jax.launch.new_shape',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--out', required=True, metavar='DIR', type=pathlib.Path)
  parser.add_argument(
    '--shape', default='diamond', choices=['diamond', 'hexagon']
  )
  parser.add_argument(
    '--model', default='shapes', choices=['shapes', SPRINT], help='to train'
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0])
  parser.add_argument('--prior', nargs='+', default=['with', 'without'])
  parser.add_argument(
    '--per-kind',
    type=int,
    default=160,
    metavar='N',
    help='prompts of each kind of the other shapes; half of it for the new '
    'shape alone, and a quarter for compositions (default: %(default)s)',
  )
  parser.add_argument('--steps', type=int, default=1000, metavar='N')
  args, overrides = parser.parse_known_args(argv)
  for seed in args.seeds:
    for prior in args.prior:
      path = args.out / f'{args.shape}-{seed}-{prior}'
      if not (path / 'scores.json').is_file():
        run(args, overrides, seed, prior == 'with', path)
      print(path.name, (path / 'scores.json').read_text(), flush=True)
  return 0


def run(args, overrides, seed: int, prior: bool, path: pathlib.Path) -> None:
  """Trains one adapter and writes its scores."""
  from sana_jax import config as base

  config = load_config(f'finetune_lora:{args.model}')
  config.update(num_steps=args.steps, seed=seed)
  config.data.path = str(pictures(args, seed))
  if prior:
    from sana_jax.evaluation import new_shape

    texts = new_shape.class_prompts(64, seed)
    config.prior.class_prompt = ' | '.join(texts)
    config.prior.num_class_images = len(texts)
  base.apply_overrides(config, overrides)
  base.check(config)
  began = time.process_time()
  pipe = trained(config, path)
  found = {'core_minutes': (time.process_time() - began) / 60}
  sets = prompts_of(args.shape, args.per_kind)
  if args.model != SPRINT:
    found |= scores(pipe, sets, args.shape, path)
  found |= sprint_scores(sets, args.shape, path)
  (path / 'scores.json').write_text(json.dumps(found, indent=2) + '\n')


def pictures(args, seed: int) -> pathlib.Path:
  """Folder of the pictures of a seed, written if it is new."""
  from sana_jax.evaluation import new_shape
  from sana_jax.inference.images import write_png

  folder = args.out / f'{args.shape}-{seed}-pictures'
  folder.mkdir(parents=True, exist_ok=True)
  found = new_shape.pictures(args.shape, COUNT, seed)
  for i, (image, caption) in enumerate(found):
    write_png(folder / f'{i}.png', image)
    (folder / f'{i}.txt').write_text(caption + '\n')
  return folder


def trained(config, path: pathlib.Path):
  """The pipeline of the model with the adapter of a run."""
  from sana_jax import tasks
  from sana_jax.inference.pipeline import Pipeline
  from sana_jax.sharding.mesh import make_mesh
  from sana_jax.training import loop

  mesh = make_mesh({'data': 1})
  loop.train(config, tasks.open_task(config, path, mesh), path, mesh)
  return Pipeline.from_pretrained(config.init_from).load_lora(path / 'model')


def scores(pipe, sets: dict, shape: str, path: pathlib.Path) -> dict:
  """Scores of the three sets of prompts, and a sheet of pictures of each."""
  from sana_jax.inference.images import contact_sheet, write_png

  out = {}
  for name, prompts in sets.items():
    images, out[name] = scored(pipe, prompts, shape, 20)
    each = range(0, len(prompts), max(1, len(prompts) // 24))
    write_png(
      path / f'{name}.png',
      contact_sheet(
        [images[i] for i in each], [prompts[i].text for i in each], columns=6
      ),
    )
  return out


def sprint_scores(sets: dict, shape: str, path: pathlib.Path) -> dict:
  """Scores of the Sprint with the adapter of a run, and without."""
  from sana_jax.inference.pipeline import Pipeline

  out, student = {}, Pipeline.from_pretrained(SPRINT)
  students = {
    'sprint': student.load_lora(path / 'model'),
    'sprint_before': student,
  }
  for name, pipe in students.items():
    for steps in SPRINT_STEPS:
      out[f'{name}_{steps}'] = {
        part: scored(pipe, sets[part], shape, steps)[1]['overall']
        for part in ('alone', 'others')
      }
  return out


def prompts_of(shape: str, per_kind: int) -> dict:
  """Prompts with one such object, with it and others, and without it."""
  from sana_jax.data.shapes import KINDS
  from sana_jax.evaluation import new_shape, shapes_suite

  compositions = [kind for kind in KINDS if kind not in new_shape.ALONE]
  return {
    'alone': new_shape.prompts(shape, new_shape.ALONE, per_kind // 2),
    'compositions': new_shape.prompts(shape, compositions, per_kind // 4),
    'others': shapes_suite.prompts(per_kind),
  }


def scored(pipe, prompts, shape: str, steps: int) -> tuple[list, dict]:
  """(a picture of each prompt, accuracy by kind and overall)."""
  from sana_jax.data.shapes import SHAPES
  from sana_jax.evaluation import shapes_suite

  images = drawn(pipe, [prompt.text for prompt in prompts], steps)
  found = shapes_suite.score(images, prompts, shapes=(*SHAPES, shape))
  return images, {kind: score.accuracy for kind, score in found.items()}


def drawn(pipe, prompts: Sequence[str], steps: int) -> list:
  """A picture of each prompt, prompt i with seed i."""
  import numpy as np

  from sana_jax.inference import batches

  requests = [batches.Request(text, seed) for seed, text in enumerate(prompts)]
  images = []
  for _, made in batches.generate(
    pipe, requests, 32, steps=steps, guidance_scale=3.0
  ):
    images += list(np.asarray(made))
  return images


if __name__ == '__main__':
  raise SystemExit(main())
