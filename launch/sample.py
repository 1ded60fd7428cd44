"""Make pictures of prompts: PNG files and a labelled contact sheet.

  sana-jax sample --model shapes --prompt "a red circle" --out out/
  sana-jax sample --model Efficient-Large-Model/Sana_600M_512px_diffusers \\
    --prompts prompts.txt --num-images 2 --out out/

--model is a folder in the diffusers layout, a hub id, or `shapes`, the small
model that is shipped here. A prompt file has one prompt a line. Each PNG holds
its prompt, seed, steps, guidance, model and version as metadata; the same
command writes the same bytes.
"""

import argparse
from collections.abc import Iterator
import json
import pathlib
import re
from typing import NamedTuple

from sana_jax.errors import UserError
from sana_jax.launch import devices, output
from sana_jax.launch.flags import not_negative, text, whole
from sana_jax.version import __version__

SHEET = 'contact_sheet.png'


class Request(NamedTuple):
  """One picture: its prompt, seed, which of the prompt's it is, its file."""

  prompt: str
  seed: int
  number: int
  file: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--prompt', action='append', type=text, metavar='TEXT',
                    help='what to show; may be repeated')
  what.add_argument('--prompts', metavar='FILE', help='one prompt a line')
  parser.add_argument('--out', required=True, metavar='DIR',
                      help='where the pictures go, made if need be')
  parser.add_argument('--num-images', type=whole(), default=1, metavar='N',
                      help='of each prompt (default: %(default)s)')
  parser.add_argument('--batch-size', type=whole(), default=16, metavar='N',
                      help='pictures made at once (default: %(default)s)')
  parser.add_argument('--height', type=whole(), metavar='PX',
                      help="default: the model's own")
  parser.add_argument('--width', type=whole(), metavar='PX',
                      help="default: the model's own")
  add_sampling_arguments(parser)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
  """Flags that `sample` and `evaluate` share."""
  parser.add_argument('--model', required=True, metavar='NAME',
                      help='a folder, a hub id, or shapes')
  parser.add_argument('--seed', type=whole(0), default=0, metavar='N',
                      help='default: %(default)s')
  parser.add_argument('--steps', type=whole(1, 1000), metavar='N',
                      help="default: the model's recommendation, else 20")
  parser.add_argument('--guidance-scale', type=not_negative, metavar='S',
                      help="default: the model's recommendation, else 4.5")
  parser.add_argument('--negative-prompt', default='', type=text,
                      metavar='TEXT', help='what to lead away from')
  parser.add_argument('--sampler', metavar='NAME',
                      help="euler, dpm++2m, dpm++2m-heun or dpm++3m (default: "
                      "the model's)")
  parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'],
                      help='default: float32 on CPU, else bfloat16')
  parser.add_argument('--cpu-devices', type=whole(), metavar='N',
                      help='devices to split a CPU into (default: one a core)')


def run(args: argparse.Namespace) -> int:
  """Samples; returns the exit code."""
  prompts = read_prompts(args.prompts) if args.prompts else args.prompt
  if any(not p.strip() for p in prompts):
    raise UserError('--prompt is empty; say what to show.')
  output.check(args.out)
  requests = plan(prompts, args.num_images, args.seed)
  pipe, settings = open_pipeline(args)
  with output.folder(args.out) as out:
    draw(pipe, requests, settings, args, out)
  print(f'{len(requests)} pictures are in {out}, all of them in '
        f'{out / SHEET}.')
  return 0


def draw(pipe, requests: list[Request], settings: dict, args, out) -> None:
  """Writes each picture as soon as it is made, the sheet and the list last."""
  from tqdm import tqdm

  from sana_jax.inference.images import contact_sheet, write_png
  images = []
  with tqdm(total=len(requests), desc='pictures', unit='image') as bar:
    for chunk, made in generate(pipe, requests, settings, args):
      for request, image in zip(chunk, made):
        write_png(out / request.file, image, metadata(request, settings, args))
      images += list(made)
      bar.update(len(chunk))
  write_png(out / SHEET, contact_sheet(images, [r.prompt for r in requests]))
  output.write_text(out / 'results.jsonl', ''.join(
    json.dumps({'file': r.file, **metadata(r, settings, args)},
               ensure_ascii=False) + '\n' for r in requests))


def read_prompts(file: str) -> list[str]:
  """The lines of a prompt file that are not blank."""
  try:
    text = pathlib.Path(file).read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as e:
    raise UserError(f'--prompts={file} is not UTF-8 (byte {e.start}); save it '
                    'as UTF-8 text, one prompt a line.') from e
  except OSError as e:
    raise UserError(f'--prompts={file} cannot be read ({e.strerror}).') from e
  prompts = [line.strip() for line in text.splitlines() if line.strip()]
  if not prompts:
    raise UserError(f'--prompts={file} is empty; give one prompt a line.')
  return prompts


def plan(prompts: list[str], num_images: int, seed: int) -> list[Request]:
  """Every picture to make, in order."""
  return [
    Request(prompt, seed, k, f'{i:05d}-{k}-{slug(prompt)}.png')
    for i, prompt in enumerate(prompts) for k in range(num_images)]


def slug(prompt: str) -> str:
  """The prompt's beginning as part of a file name."""
  return re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:48] or 'prompt'


def open_pipeline(args: argparse.Namespace):
  """The model on all devices, and the settings that it is used with.

  Raises UserError for everything that the model cannot be asked for.
  """
  devices.configure(args.cpu_devices)
  import jax

  from sana_jax.diffusion import samplers
  from sana_jax.inference.pipeline import check_size, Pipeline
  from sana_jax.sharding.mesh import make_mesh
  if args.sampler:
    samplers.make(args.sampler)
  dtype = args.dtype or (
    'float32' if jax.default_backend() == 'cpu' else 'bfloat16')
  pipe = Pipeline.from_pretrained(args.model, dtype, make_mesh({'data': -1}))
  height, width = (getattr(args, side, None) or pipe.size_px
                   for side in ('height', 'width'))
  check_size(height, width, pipe.autoencoder.module.compression)
  settings = {}
  for key, default in (('steps', 20), ('guidance_scale', 4.5)):
    asked = getattr(args, key)
    settings[key] = (
      pipe.recommended.get(key, default) if asked is None else asked)
  settings |= {'sampler': args.sampler or pipe.sampler, 'height': height,
               'width': width, 'negative_prompt': args.negative_prompt}
  return pipe, settings


def generate(pipe, requests: list[Request], settings: dict,
             args: argparse.Namespace) -> Iterator:
  """(requests, images) a batch; the last is filled up, not compiled anew."""
  size = min(args.batch_size, len(requests))
  for start in range(0, len(requests), size):
    chunk = requests[start:start + size]
    full = chunk + chunk[-1:] * (size - len(chunk))
    images = pipe(
      [r.prompt for r in full], seed=[r.seed for r in full],
      numbers=[r.number for r in full], **settings)
    yield chunk, images[:len(chunk)]


def metadata(request: Request, settings: dict, args) -> dict[str, object]:
  """What a PNG says of how it was made."""
  return {'prompt': request.prompt, 'seed': request.seed,
          'number': request.number, **settings, 'model': args.model,
          'version': f'sana_jax {__version__}'}
