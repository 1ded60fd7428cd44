"""Tune a weakened small model by preferences, and score it before and after.

  python -m sana_jax.launch.shapes_preference --out out/preference

The shipped model is first weakened: a short training on pictures of which half
of those with a position have the opposite one in their caption. Two adapters
of it are then trained, by DiffusionNFT with the detector as reward, and by
Diffusion-DPO on pairs of the weakened model's own pictures. Each is scored on
held-out prompts at guidance 1 and 3. A finished stage is not repeated.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import time

from sana_jax.launch.config_files import load_config

OPPOSITE = {
  'left': 'right',
  'right': 'left',
  'above': 'below',
  'below': 'above',
}
SCALES = (1.0, 3.0)
SEED = 7  # Of the scenes; other pictures than those of the shipped model.


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing and prints all scores; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m sana_jax.launch.shapes_preference',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--out', required=True, metavar='DIR', type=pathlib.Path)
  parser.add_argument(
    '--stages',
    nargs='+',
    default=['nft', 'dpo'],
    choices=['nft', 'dpo'],
  )
  parser.add_argument(
    '--per-kind',
    type=int,
    default=160,
    metavar='N',
    help='held-out prompts of each kind (default: %(default)s)',
  )
  parser.add_argument(
    '--weak-steps',
    type=int,
    default=200,
    metavar='N',
    help='steps on the wrong captions (default: %(default)s)',
  )
  args, overrides = parser.parse_known_args(argv)
  args.out.mkdir(parents=True, exist_ok=True)
  weak = args.out / 'weak'
  stages = {
    'weak': lambda: train(weaken(args), weak),
    'nft': lambda: train(nft(args, overrides), args.out / 'nft'),
    'dpo': lambda: train(dpo(args, overrides), args.out / 'dpo'),
  }
  for stage in ['weak', *args.stages]:
    found = args.out / f'{stage}.json'
    if not found.is_file():
      began = time.process_time()
      stages[stage]()
      minutes = (time.process_time() - began) / 60
      adapter = None if stage == 'weak' else args.out / stage / 'model'
      scored = {'core_minutes': minutes}
      scored |= scores(weak / 'model', adapter, args.per_kind)
      found.write_text(json.dumps(scored, indent=2) + '\n')
    print(stage, found.read_text(), flush=True)
  return 0


def train(config, workdir: pathlib.Path) -> None:
  """Trains a config to its end."""
  from sana_jax import config as base
  from sana_jax import tasks
  from sana_jax.sharding.mesh import make_mesh
  from sana_jax.training import loop

  base.check(config)
  mesh = make_mesh({'data': 1})
  loop.train(config, tasks.open_task(config, workdir, mesh), workdir, mesh)


def weaken(args):
  """Config of the training that weakens the model."""
  config = load_config('shapes')
  config.update(
    init_from='shapes',
    autoencoder='shapes',
    text_encoder='shapes',
    num_steps=args.weak_steps,
    ema_decay=0.0,
    dtype='float32',
    pictures_every_steps=0,
  )
  config.data.update(source='folder', path=str(wrong_pictures(args.out)))
  config.optimizer.update(
    name='adamw', learning_rate=2e-4, schedule='constant', warmup_steps=10
  )
  return config


def wrong_pictures(out: pathlib.Path, count: int = 1200) -> pathlib.Path:
  """Folder of scenes; half of the positions in their captions are wrong."""
  import numpy as np

  from sana_jax.data.shapes.render import render
  from sana_jax.data.shapes.scenes import scene
  from sana_jax.inference.images import write_png

  folder, rng, lines = out / 'wrong', np.random.default_rng(0), []
  folder.mkdir(exist_ok=True)
  for i in range(count):
    found = scene(SEED, 'train', i)
    words = found.caption.split()
    if found.kind == 'position' and rng.random() < 0.5:
      words = [OPPOSITE.get(word, word) for word in words]
    write_png(folder / f'{i:05d}.png', render(found, 128))
    lines.append({'file_name': f'{i:05d}.png', 'text': ' '.join(words)})
  write_lines(folder / 'metadata.jsonl', lines)
  return folder


def nft(args, overrides):
  """Config of DiffusionNFT on training captions."""
  config = tuned(args, 'shapes_nft', overrides)
  prompts = args.out / 'prompts.txt'
  prompts.write_text('\n'.join(captions(400)) + '\n')
  config.nft.prompts = str(prompts)
  return config


def dpo(args, overrides):
  """Config of DPO on pairs of the weakened model's pictures."""
  config = tuned(args, 'shapes_dpo', overrides)
  config.data.path = str(pairs(args.out))
  return config


def tuned(args, name: str, overrides):
  """A shipped config for the weakened model; its overrides are of its group."""
  from sana_jax import config as base

  config = load_config(name)
  config.init_from = str(args.out / 'weak' / 'model')
  config.autoencoder = config.text_encoder = 'shapes'
  base.apply_overrides(config, overrides)
  return config


def pairs(out: pathlib.Path, prompts: int = 120, each: int = 4) -> pathlib.Path:
  """Folder of pairs: a picture that follows a prompt, and one that does not.

  Prompts are training captions, half of them with a position; a prompt whose
  pictures are all right or all wrong has no pair.
  """
  from sana_jax.evaluation import shapes_scorer
  from sana_jax.inference.images import write_png
  from sana_jax.inference.pipeline import Pipeline

  folder = out / 'pairs'
  if (folder / 'metadata.jsonl').is_file():
    return folder
  folder.mkdir(exist_ok=True)
  pipe = Pipeline.from_pretrained(out / 'weak' / 'model')
  texts = [text for text in captions(prompts) for _ in range(each)]
  images = drawn(pipe, texts, 1.0, seed=10_000, steps=10)
  grades, lines = shapes_scorer.score(texts, images), []
  for i in range(0, len(texts), each):
    order = sorted(range(i, i + each), key=lambda j: -grades[j])
    for chosen, rejected in zip(order[: each // 2], order[::-1]):
      if grades[rejected] < 0.5 <= grades[chosen]:
        names = [f'{j:05d}.png' for j in (chosen, rejected)]
        for name, j in zip(names, (chosen, rejected)):
          write_png(folder / name, images[j])
        lines.append(
          dict(zip(('chosen', 'rejected'), names)) | {'prompt': texts[i]}
        )
  write_lines(folder / 'metadata.jsonl', lines)
  return folder


def captions(count: int) -> list[str]:
  """Training captions, of which every second one has a position."""
  import numpy as np

  from sana_jax.data.shapes import captions as of_kind
  from sana_jax.data.shapes import KINDS

  rng = np.random.default_rng(SEED)
  every = {
    kind: [text for _, texts in of_kind(kind, 'train') for text in texts]
    for kind in KINDS
  }
  others = [
    text for kind in KINDS if kind != 'position' for text in every[kind]
  ]
  return [
    str(rng.choice(every['position'] if i % 2 else others))
    for i in range(count)
  ]


def scores(model: pathlib.Path, adapter, per_kind: int) -> dict:
  """Fraction of held-out prompts that are followed, by guidance and kind."""
  from sana_jax.evaluation import shapes_suite
  from sana_jax.inference.pipeline import Pipeline

  pipe = Pipeline.from_pretrained(model)
  if adapter is not None:
    pipe = pipe.load_lora(adapter)
  prompts = shapes_suite.prompts(per_kind)
  out = {}
  for scale in SCALES:
    images = drawn(pipe, [prompt.text for prompt in prompts], scale)
    found = shapes_suite.score(images, prompts)
    out[f'guidance {scale:g}'] = {k: s.accuracy for k, s in found.items()}
  return out


def drawn(
  pipe, texts: Sequence[str], scale: float, seed: int = 0, steps: int = 20
):
  """A picture of each text, that of text i with seed `seed` + i."""
  import numpy as np

  from sana_jax.inference import batches

  requests = [batches.Request(x, seed + i) for i, x in enumerate(texts)]
  return [
    image
    for _, made in batches.generate(
      pipe, requests, 32, steps=steps, guidance_scale=scale
    )
    for image in np.asarray(made)
  ]


def write_lines(path: pathlib.Path, lines: Sequence[dict]) -> None:
  """Writes JSON lines."""
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


if __name__ == '__main__':
  raise SystemExit(main())
