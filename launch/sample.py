"""Make pictures of prompts, from one to a million, and a labelled sheet.

  sana-jax sample --model shapes --prompt "a red circle" --out out/
  sana-jax sample --model Efficient-Large-Model/Sana_600M_512px_diffusers \\
    --prompts prompts.txt --num-images 2 --out out/

--model is a folder in the diffusers layout, a hub id, a name that sana-jax zoo
lists, or `shapes`, the small model that is shipped here.

A prompt file is .txt with a prompt a line, or .jsonl, .csv or .parquet with
prompt and, where a line differs from the command, negative_prompt, seed,
height, width and num_images. A line that cannot be used is told and skipped.

Each picture holds its prompt, seed, steps, guidance, model and version as
metadata, and has a line in results.jsonl. A run that is stopped, even by
SIGKILL, is completed by the same command. With several processes (see
jax.distributed) each makes its share.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import sys

from sana_jax.errors import UserError
from sana_jax.inference.jobs import Job, read
from sana_jax.launch import devices, output
from sana_jax.launch.flags import not_negative, ratio, text, whole

SHEET = 'contact_sheet.png'
_ON_SHEET = 64  # Pictures, from the first on.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--prompt', action='append', type=text, metavar='TEXT',
                    help='what to show; may be repeated')
  what.add_argument('--prompts', metavar='FILE',
                    help='a .txt, .jsonl, .csv or .parquet file')
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
  parser.add_argument('--aspect-ratio', type=ratio, metavar='W:H',
                      help="such as 16:9, at the model's usual area; instead "
                      'of --height and --width')
  parser.add_argument('--format', default='png', metavar='NAME',
                      choices=['png', 'jpg', 'webp'],
                      help='png, jpg or webp (default: %(default)s)')
  parser.add_argument('--shard-size', type=whole(), default=0, metavar='N',
                      help='put N pictures each into tar files, as WebDataset '
                      'reads them (default: single files)')
  add_sampling_arguments(parser)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
  """Flags that `sample` and `evaluate` share."""
  parser.add_argument('--model', required=True, metavar='NAME',
                      help='a folder, a hub id, a zoo name, or shapes')
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
  if args.aspect_ratio and (args.height or args.width):
    raise UserError('--aspect-ratio and --height or --width are given; give '
                    'one of the two.')
  jobs, problems = _jobs(args)
  output.check(args.out)
  pipe, settings = open_pipeline(args)
  usual = pipe.size_of_ratio(args.aspect_ratio or 1.)
  jobs, too_odd = _possible(
    jobs, pipe, usual, by_line=args.prompts is not None)
  for problem in problems + too_odd:
    print(f'sana-jax: {args.prompts}, {problem} It is skipped.',
          file=sys.stderr)
  with output.folder(args.out) as out:
    made = draw(pipe, jobs, settings, args, out)
  shown = 'all' if made <= _ON_SHEET else f'the first {_ON_SHEET}'
  print(f'{made} pictures are in {out}, {shown} of them in {out / SHEET}.')
  return 0


def _jobs(args):
  """(jobs, what was wrong with other lines), from the flags or the file."""
  default = Job('', args.negative_prompt, args.seed, args.height, args.width,
                args.num_images)
  if args.prompts:
    return read(args.prompts, default)
  if any(not p.strip() for p in args.prompt):
    raise UserError('--prompt is empty; say what to show.')
  return [dataclasses.replace(default, prompt=p, line=i)
          for i, p in enumerate(args.prompt, 1)], []


def _possible(jobs, pipe, usual, by_line):
  """Jobs whose size the model can make, and what is wrong with the others."""
  kept, problems = [], []
  for job in jobs:
    job = dataclasses.replace(job, height=job.height or usual[0],
                              width=job.width or usual[1])
    try:
      pipe.trained_size(job.height, job.width)
      kept.append(job)
    except UserError as e:
      if not by_line:
        raise
      problems.append(f'line {job.line}: {e}')
  if not kept:
    raise UserError(f'No line can be used: {problems[0]}')
  return kept, problems


def draw(pipe, jobs: Sequence[Job], settings: dict, args, out) -> int:
  """Makes what is missing in `out`; returns how many pictures are there."""
  import jax
  from tqdm import tqdm

  from sana_jax.inference import batches, gallery
  index, count = jax.process_index(), jax.process_count()
  pictures = plan(jobs, settings, args)[index::count]
  of = f'-{index:05d}-of-{count:05d}' if count > 1 else ''
  with tqdm(total=len(pictures), desc='pictures', unit='image') as bar:
    with gallery.Gallery(
        out, pictures, name=f'results{of}.jsonl', shard_size=args.shard_size,
        prefix=of[1:] + of[:1], on_written=bar.update) as album:
      missing = album.missing()
      bar.update(len(pictures) - len(missing))
      bar.unpause()
      for indices, images in batches.generate(
          pipe, [request(p.about) for p in missing], args.batch_size,
          **settings):
        album.add([missing[i] for i in indices], images)
    _write_sheet(out / f'contact_sheet{of}.png', album, pictures[:_ON_SHEET])
  return len(pictures)


def _write_sheet(path, album, pictures):
  import numpy as np

  from sana_jax.inference.images import contact_sheet, write_png
  write_png(path, contact_sheet(
    [np.asarray(album.open(p)) for p in pictures],
    [p.about['prompt'] for p in pictures]))


def plan(jobs: Sequence[Job], settings: dict, args) -> list:
  """Every picture to make, in order: its file and all that decides it."""
  from sana_jax.inference.batches import Request
  from sana_jax.inference.gallery import about, Picture, slug
  return [
    Picture(
      f'{job.line - 1:05d}-{k}-{slug(job.prompt)}.{args.format}',
      about(Request(job.prompt, job.seed, k, job.negative_prompt, job.height,
                    job.width), settings, args.model))
    for job in jobs for k in range(job.num_images)]


def request(about):
  """What the pipeline is asked for, of all that is known of a picture."""
  from sana_jax.inference.batches import Request
  return Request(**{key: about[key] for key in Request._fields})


def open_pipeline(args: argparse.Namespace):
  """The model on this process's devices, and how it is used for all pictures.

  Raises UserError for everything that the model cannot be asked for.
  """
  devices.configure(args.cpu_devices)
  import jax

  from sana_jax.diffusion import samplers
  from sana_jax.inference.pipeline import Pipeline
  from sana_jax.sharding.mesh import make_mesh
  if args.sampler:
    samplers.make(args.sampler)
  dtype = args.dtype or (
    'float32' if jax.default_backend() == 'cpu' else 'bfloat16')
  pipe = Pipeline.from_pretrained(
    args.model, dtype, make_mesh({'data': -1}, jax.local_devices()))
  settings = {}
  for key, default in (('steps', 20), ('guidance_scale', 4.5)):
    asked = getattr(args, key)
    settings[key] = (
      pipe.recommended.get(key, default) if asked is None else asked)
  return pipe, settings | {'sampler': args.sampler or pipe.sampler}
