"""Make pictures of prompts, from one to a million, and a labelled sheet.

  sana-jax sample --model shapes --prompt "a red circle" --out out/
  sana-jax sample --model Efficient-Large-Model/Sana_600M_512px_diffusers \\
    --prompts prompts.txt --num-images 2 --out out/

--model is a folder in the diffusers layout, a hub id, a name that sana-jax zoo
lists, or `shapes`, the small model that is shipped here.

--candidates N --scorer NAME makes N pictures of each prompt and writes the best
--num-images of them, by one of these:

  shapes            how much of its prompt a picture of shapes shows
  MODULE:FUNCTION   your own, see sana_jax/evaluation/scorers.py

A prompt file is .txt with a prompt a line, or .jsonl, .csv or .parquet with
prompt and, where a line differs from the command, negative_prompt, seed,
height, width and num_images. A line that cannot be used is skipped, and listed
with its reason in skipped.jsonl.

Each picture holds its prompt, seed, steps, guidance, model and version as
metadata, and has a line in results.jsonl. A run that is stopped, even by
SIGKILL, is completed by the same command. With several processes (see
jax.distributed) each makes its share.
"""

import argparse
from collections.abc import Sequence
import dataclasses

from sana_jax import locks
from sana_jax.errors import in_memory, UserError
from sana_jax.inference.jobs import (
  check_area,
  Job,
  MOST_IMAGES,
  MOST_PICTURES,
  problem,
  read,
)
from sana_jax.launch import best_of, devices, output
from sana_jax.launch.flags import (
  backends,
  BATCH,
  CPU_DEVICES,
  fraction,
  interval,
  not_negative,
  PIXELS,
  positive,
  prompt,
  ratio,
  sizes,
  whole,
)
from sana_jax.launch.skipped import part_name, Skipped, tell

SHEET = 'contact_sheet.png'
_ON_SHEET = 64  # Pictures, from the first on.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument(
    '--prompt',
    action='append',
    type=prompt,
    metavar='TEXT',
    help='what to show; may be repeated',
  )
  what.add_argument(
    '--prompts', metavar='FILE', help='a .txt, .jsonl, .csv or .parquet file'
  )
  parser.add_argument(
    '--out',
    required=True,
    metavar='DIR',
    help='where the pictures go, made if need be',
  )
  parser.add_argument(
    '--num-images',
    type=whole(1, MOST_IMAGES),
    default=1,
    metavar='N',
    help='of each prompt (default: %(default)s)',
  )
  parser.add_argument(
    '--candidates',
    type=whole(1, BATCH),
    default=1,
    metavar='N',
    help='of which --scorer chooses --num-images (default: %(default)s)',
  )
  parser.add_argument(
    '--scorer', metavar='NAME', help='shapes, or MODULE:FUNCTION of your own'
  )
  parser.add_argument(
    '--batch-size',
    type=whole(1, BATCH),
    default=16,
    metavar='N',
    help='pictures made at once (default: %(default)s)',
  )
  parser.add_argument(
    '--max-bad-fraction',
    type=fraction,
    default=0.1,
    metavar='X',
    help='of the lines of --prompts; where more cannot be '
    'used, the exit code is 1 (default: %(default)s)',
  )
  parser.add_argument(
    '--height',
    type=whole(1, PIXELS),
    metavar='PX',
    help="default: the model's own",
  )
  parser.add_argument(
    '--width',
    type=whole(1, PIXELS),
    metavar='PX',
    help="default: the model's own",
  )
  parser.add_argument(
    '--aspect-ratio',
    type=ratio,
    metavar='W:H',
    help="such as 16:9, at the model's usual area; instead "
    'of --height and --width',
  )
  parser.add_argument(
    '--format',
    default='png',
    metavar='NAME',
    choices=['png', 'jpg', 'webp'],
    help='png, jpg or webp (default: %(default)s)',
  )
  parser.add_argument(
    '--decode',
    default='whole',
    metavar='HOW',
    choices=['whole', 'strips', 'tiles'],
    help='whole; strips: the same picture in a seventh of '
    'the memory at 4096 px; or tiles, which have seams, as '
    'diffusers does it (default: %(default)s)',
  )
  parser.add_argument(
    '--shard-size',
    type=whole(),
    default=0,
    metavar='N',
    help='put N pictures each into tar files, as WebDataset '
    'reads them (default: single files)',
  )
  add_sampling_arguments(parser)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
  """Flags that `sample` and `evaluate` share."""
  parser.add_argument(
    '--model',
    required=True,
    metavar='NAME',
    help='a folder, a hub id, a zoo name, or shapes',
  )
  parser.add_argument(
    '--seed', type=whole(0), default=0, metavar='N', help='default: %(default)s'
  )
  parser.add_argument(
    '--steps',
    type=whole(1, 1000),
    metavar='N',
    help="default: the model's recommendation, else 20",
  )
  parser.add_argument(
    '--guidance-scale',
    type=not_negative,
    metavar='S',
    help="default: the model's recommendation, else 4.5",
  )
  parser.add_argument(
    '--negative-prompt',
    default='',
    type=prompt,
    metavar='TEXT',
    help='what to lead away from',
  )
  parser.add_argument(
    '--sampler',
    metavar='NAME',
    help="euler, dpm++2m, dpm++2m-heun or dpm++3m (default: the model's)",
  )
  parser.add_argument(
    '--guidance-interval',
    type=interval,
    metavar='FROM:TO',
    help='times, of 1 for noise to 0, between which guidance '
    'takes place (default: 0:1)',
  )
  parser.add_argument(
    '--pag-scale',
    type=not_negative,
    metavar='S',
    help='of perturbed-attention guidance (default: 0, none)',
  )
  parser.add_argument(
    '--apg-eta',
    type=not_negative,
    metavar='X',
    help='adaptive projected guidance, keeping this much of '
    'what saturates colours (default: plain guidance)',
  )
  parser.add_argument(
    '--flow-shift',
    type=positive,
    metavar='S',
    help="of the time grid (default: the model's)",
  )
  add_device_arguments(parser)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
  """Flags of every command that opens a pipeline."""
  parser.add_argument(
    '--mesh',
    type=sizes,
    default={'data': -1},
    metavar='AXIS=N,...',
    help='how the devices share the work: data splits the '
    'pictures of a batch, sequence the rows of each '
    '(default: data=-1, all devices)',
  )
  parser.add_argument(
    '--dtype',
    choices=['float32', 'bfloat16', 'float16'],
    help='default: float32 on CPU, else bfloat16',
  )
  parser.add_argument(
    '--cpu-devices',
    type=whole(1, CPU_DEVICES),
    metavar='N',
    help='devices to split a CPU into (default: one a core)',
  )
  parser.add_argument(
    '--kernels',
    type=backends,
    default={},
    metavar='OP=NAME,...',
    help='backends of operations, such as '
    'glumb_conv=mosaic_gpu (default: the fastest)',
  )


def run(args: argparse.Namespace) -> int:
  """Samples; returns the exit code."""
  if args.aspect_ratio and (args.height or args.width):
    raise UserError(
      '--aspect-ratio and --height or --width are given; give one of the two.'
    )
  scorer = best_of.scorer(args)
  jobs, problems = _jobs(args)
  by_line = args.prompts is not None
  jobs, unreadable = _possible(
    jobs, lambda job: best_of.check(scorer, args.candidates, job), by_line
  )
  output.check(args.out)
  if (count := sum(job.num_images for job in jobs)) > MOST_PICTURES:
    raise UserError(
      f'{count:,} pictures are more than {MOST_PICTURES:,}; '
      'lower --num-images, or split the prompt file.'
    )
  pipe, settings = open_pipeline(
    args,
    min(args.batch_size, sum(args.candidates * job.num_images for job in jobs)),
  )
  if args.decode != 'whole':
    from sana_jax.inference.pipeline import parts_of

    parts_of(args.decode, pipe.autoencoder.module.spec.side)
    settings['parts'] = args.decode
  usual = pipe.size_of_ratio(args.aspect_ratio or 1.0)
  jobs = [
    dataclasses.replace(
      job, height=job.height or usual[0], width=job.width or usual[1]
    )
    for job in jobs
  ]
  jobs, too_odd = _possible(jobs, lambda job: _check_size(pipe, job), by_line)
  problems += unreadable + too_odd
  lower = 'lower --batch-size, --height or --width, or give --decode=strips.'
  with (
    in_memory(lower),
    output.folder(args.out) as out,
    locks.hold(locks.within(out), 'sampling', '--out', shared=True) as lock,
  ):
    skipped = Skipped(out, args.prompts, problems)
    made, failed = draw(pipe, jobs, settings, args, out, lock, scorer)
    skipped.add([_failure(job, failed) for job in jobs if job.line in failed])
  if made:
    shown = 'all' if made <= _ON_SHEET else f'the first {_ON_SHEET}'
    print(f'{made} pictures are in {out}, {shown} of them in {out / SHEET}.')
  return skipped.conclude(len(jobs) + len(problems), args.max_bad_fraction)


def _jobs(args):
  """(jobs, problems of other lines), from the flags or the file."""
  default = Job(
    '',
    args.negative_prompt,
    args.seed,
    args.height,
    args.width,
    args.num_images,
  )
  if args.prompts is not None:
    return read(args.prompts, default)
  if any(not p.strip() for p in args.prompt):
    raise UserError('--prompt is empty; say what to show.')
  return [
    dataclasses.replace(default, prompt=p, line=i)
    for i, p in enumerate(args.prompt, 1)
  ], []


def _possible(jobs, check, by_line):
  """(jobs that pass the check, problems of the others)."""
  kept, problems = [], []
  for job in jobs:
    try:
      check(job)
      kept.append(job)
    except UserError as e:
      if not by_line:
        raise
      problems.append(problem(job.line, e, job.prompt))
  if not kept:
    raise UserError(f'No line can be used: {problems[0]}')
  return kept, problems


def _check_size(pipe, job):
  check_area(job.height, job.width)
  pipe.trained_size(job.height, job.width)


def _failure(job, failed):
  return problem(job.line, failed[job.line], job.prompt)


def draw(
  pipe, jobs: Sequence[Job], settings: dict, args, out, lock, scorer=None
) -> tuple[int, dict[int, str]]:
  """Makes the pictures that are missing in `out`.

  Returns:
    How many pictures are there, and the lines without: number and reason.
  """
  import jax
  from tqdm import tqdm

  from sana_jax.inference import gallery

  index, count = jax.process_index(), jax.process_count()
  if scorer:  # A process chooses among all candidates of a prompt.
    pictures = plan(jobs[index::count], settings, args)
  else:
    pictures = plan(jobs, settings, args)[index::count]
  of, failed = part_name(), {}
  with tqdm(total=len(pictures), desc='pictures', unit='image') as bar:
    with gallery.Gallery(
      out,
      pictures,
      name=f'results{of}.jsonl',
      shard_size=args.shard_size,
      prefix=of[1:] + of[:1],
      on_written=bar.update,
    ) as album:
      missing = album.missing(decoded=_ON_SHEET)
      bar.clear()
      tell(
        [
          f'{out / name} is damaged; it is made again.'
          for name in album.damaged
        ]
      )
      bar.update(len(pictures) - len(missing))
      bar.unpause()
      for made, images in (
        best_of.chosen(pipe, pictures, album, settings, args, scorer, failed)
        if scorer
        else _all(pipe, pictures, missing, settings, args, failed)
      ):
        lock.check()
        album.add(made, images)
    failed |= album.failed
    there = [p for p in pictures if p.file not in failed]
    if there:  # There may be more processes than prompts.
      _write_sheet(out / f'contact_sheet{of}.png', album, there[:_ON_SHEET])
  return len(there), {
    int(file.partition('-')[0]) + 1: reason for file, reason in failed.items()
  }


def _all(pipe, pictures, missing, settings, args, failed):
  """(pictures, their pixels), a batch at a time."""
  from sana_jax.inference import batches

  def on_bad(indices, reason):
    failed.update({pictures[i].file: reason for i in indices})

  files = {p.file for p in missing}
  for indices, images in batches.generate(
    pipe,
    [batches.request_of(p.about) for p in pictures],
    args.batch_size,
    wanted={i for i, p in enumerate(pictures) if p.file in files},
    on_bad=on_bad,
    **settings,
  ):
    yield [pictures[i] for i in indices], images


def _write_sheet(path, album, pictures):
  import numpy as np

  from sana_jax.inference.images import contact_sheet, write_png

  write_png(
    path,
    contact_sheet(
      [np.asarray(album.open(p)) for p in pictures],
      [p.about['prompt'] for p in pictures],
    ),
  )


def plan(jobs: Sequence[Job], settings: dict, args) -> list:
  """Every picture to make, in order: its file and all that decides it."""
  from sana_jax.inference.batches import Request
  from sana_jax.inference.gallery import about, Picture, slug

  def picture(job, k):
    said = about(
      Request(
        job.prompt, job.seed, k, job.negative_prompt, job.height, job.width
      ),
      settings,
      args.model,
    )
    if args.scorer:  # Which candidate it will be is not known yet.
      del said['number']
      said |= best_of.asked(args, k)
    return Picture(
      f'{job.line - 1:05d}-{k}-{slug(job.prompt)}.{args.format}',
      said,
      best_of.FOUND if args.scorer else (),
    )

  return [picture(job, k) for job in jobs for k in range(job.num_images)]


def open_pipeline(args: argparse.Namespace, pictures: int | None = None):
  """The model on this process's devices, and how it is used for all pictures.

  A CPU is split into no more devices than there are pictures at a time: one
  device uses all cores for one picture. Raises UserError for everything that
  the model cannot be asked for.
  """
  devices.configure(args.cpu_devices, pictures)
  import jax

  from sana_jax.diffusion import samplers
  from sana_jax.inference.pipeline import Pipeline
  from sana_jax.sharding.mesh import make_mesh

  if args.sampler:
    samplers.make(args.sampler)
  dtype = args.dtype or (
    'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  )
  mesh = make_mesh(args.mesh, jax.local_devices())
  pipe = Pipeline.from_pretrained(args.model, dtype, mesh)
  return pipe, settings_of(args, pipe)


def settings_of(args: argparse.Namespace, pipe) -> dict:
  """What decides all pictures alike; what is as usual is mostly left out."""
  settings = {}
  for key, default in (('steps', 20), ('guidance_scale', 4.5)):
    asked = getattr(args, key)
    settings[key] = (
      pipe.recommended.get(key, default) if asked is None else asked
    )
  settings['sampler'] = args.sampler or pipe.sampler
  guidance = {
    'interval': args.guidance_interval and list(args.guidance_interval),
    'pag_scale': args.pag_scale,
    'apg_eta': args.apg_eta,
  }
  if asked := {k: v for k, v in guidance.items() if v is not None}:
    settings['guidance'] = asked
  if args.flow_shift is not None:
    settings['flow_shift'] = args.flow_shift
  return settings
