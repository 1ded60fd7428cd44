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
from sana_jax.launch import devices
from sana_jax.version import __version__


class Request(NamedTuple):
  """One picture: its prompt, seed, which of the prompt's it is, its file."""

  prompt: str
  seed: int
  number: int
  file: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument('--model', required=True, metavar='NAME',
                      help='a folder, a hub id, or shapes')
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--prompt', action='append', metavar='TEXT',
                    help='what to show; may be repeated')
  what.add_argument('--prompts', metavar='FILE', help='one prompt a line')
  parser.add_argument('--out', required=True, metavar='DIR',
                      help='where the pictures go, made if need be')
  parser.add_argument('--num-images', type=int, default=1, metavar='N',
                      help='of each prompt (default: %(default)s)')
  parser.add_argument('--batch-size', type=int, default=16, metavar='N',
                      help='pictures made at once (default: %(default)s)')
  parser.add_argument('--height', type=int, metavar='PX',
                      help="default: the model's own")
  parser.add_argument('--width', type=int, metavar='PX',
                      help="default: the model's own")
  add_sampling_arguments(parser)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
  """Flags that `sample` and `evaluate` share."""
  parser.add_argument('--seed', type=int, default=0, metavar='N',
                      help='default: %(default)s')
  parser.add_argument('--steps', type=int, metavar='N',
                      help="default: the model's recommendation, else 20")
  parser.add_argument('--guidance-scale', type=float, metavar='S',
                      help="default: the model's recommendation, else 4.5")
  parser.add_argument('--negative-prompt', default='', metavar='TEXT',
                      help='what to lead away from')
  parser.add_argument('--sampler', metavar='NAME',
                      help="euler, dpm++2m, dpm++2m-heun or dpm++3m (default: "
                      "the model's)")
  parser.add_argument('--dtype', default=None, metavar='TYPE',
                      help='float32, bfloat16 or float16 (default: float32 on '
                      'CPU, else bfloat16)')
  parser.add_argument('--cpu-devices', type=int, metavar='N',
                      help='devices to split a CPU into (default: one a core)')


def run(args: argparse.Namespace) -> int:
  """Samples; returns the exit code."""
  prompts = read_prompts(args.prompts) if args.prompts else args.prompt
  check(args, prompts)
  requests = plan(prompts, args.num_images, args.seed)
  out = make_folder(args.out)
  pipe, settings = open_pipeline(args)
  from tqdm import tqdm

  from sana_jax.inference.images import contact_sheet, write_png
  images = []
  bar = tqdm(total=len(requests), desc='pictures', unit='image')
  for chunk, made in generate(pipe, requests, settings, args):
    for request, image in zip(chunk, made):
      write_png(out / request.file, image, metadata(request, settings, args))
    images += list(made)
    bar.update(len(chunk))
  bar.close()
  sheet = out / 'contact_sheet.png'
  write_png(sheet, contact_sheet(images, [r.prompt for r in requests]))
  write_results(out, requests, settings, args)
  print(f'{len(images)} pictures are in {out}, all of them in {sheet}.')
  return 0


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


def check(args: argparse.Namespace, prompts: list[str]) -> None:
  """Raises UserError before anything is loaded or written."""
  from sana_jax.diffusion import samplers
  for flag in ('num_images', 'batch_size', 'steps', 'height', 'width',
               'cpu_devices'):
    value = getattr(args, flag, None)
    if value is not None and value < 1:
      raise UserError(
        f'--{flag.replace("_", "-")}={value} must be 1 or more.')
  if args.guidance_scale is not None and args.guidance_scale < 0:
    raise UserError(
      f'--guidance-scale={args.guidance_scale} must be 0 or more.')
  if not 0 <= args.seed < 2**31:
    raise UserError(f'--seed={args.seed} must lie in 0 to {2**31 - 1}.')
  if args.sampler:
    samplers.make(args.sampler)
  if any(not p.strip() for p in prompts):
    raise UserError('--prompt is empty; say what to show.')


def plan(prompts: list[str], num_images: int, seed: int) -> list[Request]:
  """Every picture to make, in order."""
  return [
    Request(prompt, seed, k, f'{i:05d}-{k}-{slug(prompt)}.png')
    for i, prompt in enumerate(prompts) for k in range(num_images)]


def slug(prompt: str) -> str:
  """The prompt's beginning as part of a file name."""
  return re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:48] or 'prompt'


def make_folder(path: str) -> pathlib.Path:
  """The output folder; UserError where it cannot be one."""
  out = pathlib.Path(path).expanduser()
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise UserError(
      f'--out={path} cannot be made a folder ({e.strerror}).') from e
  return out


def open_pipeline(args: argparse.Namespace):
  """The model on all devices, and the settings that it is used with."""
  devices.configure(args.cpu_devices)
  import jax

  from sana_jax.inference.pipeline import Pipeline
  from sana_jax.sharding.mesh import make_mesh
  dtype = args.dtype or (
    'float32' if jax.default_backend() == 'cpu' else 'bfloat16')
  pipe = Pipeline.from_pretrained(args.model, dtype, make_mesh({'data': -1}))
  settings = {'steps': 20, 'guidance_scale': 4.5} | dict(pipe.recommended)
  for key in settings:
    if getattr(args, key, None) is not None:
      settings[key] = getattr(args, key)
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
      numbers=[r.number for r in full],
      height=getattr(args, 'height', None), width=getattr(args, 'width', None),
      negative_prompt=args.negative_prompt, sampler=args.sampler, **settings)
    yield chunk, images[:len(chunk)]


def metadata(request: Request, settings: dict, args) -> dict[str, object]:
  """What a PNG says of how it was made."""
  return {'prompt': request.prompt, 'seed': request.seed,
          'number': request.number, **settings,
          'negative_prompt': args.negative_prompt, 'model': args.model,
          'software': f'sana_jax {__version__}'}


def write_results(out: pathlib.Path, requests, settings, args) -> None:
  """results.jsonl: one line a picture."""
  lines = [json.dumps({'file': r.file, **metadata(r, settings, args)},
                      ensure_ascii=False) for r in requests]
  part = out / '.results.jsonl.part'
  part.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  part.replace(out / 'results.jsonl')
