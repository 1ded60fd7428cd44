"""Generate pictures from prompts, from one to a million, and a labelled sheet.

  sana-jax sample --model shapes --prompt "a red circle" --out out/
  sana-jax sample --model Efficient-Large-Model/Sana_600M_512px_diffusers \\
    --prompts prompts.txt --num-images 2 --out out/

--model is a folder in the diffusers layout, a hub id, a name that sana-jax zoo
lists, or `shapes`, the small model shipped with this package.

--candidates N --scorer NAME generates N pictures of each prompt and writes the
best --num-images of them, by one of these:

  shapes            fraction of its prompt that a picture of shapes follows
  clip:DIR          CLIP score by the model in a folder
  MODULE:FUNCTION   a custom scorer, see sana_jax/evaluation/scorers.py
  https://HOST/v1?model=NAME
                    a model behind a chat API, which gets the pictures
  nvila:DIR         SANA-1.5's judge in a folder; ?tournament=1 compares pairs

A prompt file is .txt with a prompt a line, or .jsonl, .csv or .parquet with
prompt and, where a line differs from the command, negative_prompt, seed,
height, width or aspect_ratio, num_images, steps, guidance_scale, sampler and
scorer; image, mask, strength and control_image, as the flags, with paths
relative to the file; id or file names its pictures. Other columns are ignored.
An invalid line is skipped, and listed with its reason in skipped.jsonl.

Each picture holds its prompt, seed, steps, guidance, model and version as
metadata, and has a line in results.jsonl. A run that is stopped, even by
SIGKILL, is completed by the same command. With several processes (see
jax.distributed) each generates its share.
"""

import argparse
import dataclasses

from sana_jax import locks
from sana_jax.errors import explain_out_of_memory, UserError
from sana_jax.inference import ratios
from sana_jax.inference.jobs import (
  check_area,
  Job,
  MOST_IMAGES,
  MOST_PICTURES,
  problem,
  read,
  unique,
)
from sana_jax.launch import (
  best_of,
  control,
  drawing,
  edits,
  output,
  pipelines,
)
from sana_jax.launch.flags import (
  BATCH,
  fraction,
  PIXELS,
  prompt,
  ratio,
  whole,
)
from sana_jax.launch.skipped import Skipped

SHEET = 'contact_sheet.png'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  _add_pictures(parser.add_argument_group('prompts and pictures'))
  edits.add_arguments(parser.add_argument_group('start from an image'))
  control.add_arguments(parser.add_argument_group('ControlNets'))
  _add_size(parser.add_argument_group('size'))
  _add_files(parser.add_argument_group('files'))
  pipelines.add_sampling_arguments(parser)


def _add_pictures(group):
  what = group.add_mutually_exclusive_group(required=True)
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
  group.add_argument(
    '--out',
    required=True,
    metavar='DIR',
    help='where the pictures go, made if need be',
  )
  group.add_argument(
    '--num-images',
    type=whole(1, MOST_IMAGES),
    default=1,
    metavar='N',
    help='of each prompt (default: %(default)s)',
  )
  group.add_argument(
    '--candidates',
    type=whole(1, BATCH),
    default=1,
    metavar='N',
    help='of which --scorer chooses --num-images (default: %(default)s)',
  )
  group.add_argument(
    '--scorer',
    action='append',
    metavar='NAME',
    help='shapes, clip:DIR, nvila:DIR, MODULE:FUNCTION of your own, or a '
    'URL of a judge; of several, the mean rank decides; lines of --prompts '
    'may name one',
  )
  group.add_argument(
    '--batch-size',
    type=whole(1, BATCH),
    default=16,
    metavar='N',
    help='pictures made at once (default: %(default)s)',
  )
  group.add_argument(
    '--max-bad-fraction',
    type=fraction,
    default=0.1,
    metavar='X',
    help='of the lines of --prompts; where more cannot be '
    'used, the exit code is 1 (default: %(default)s)',
  )


def _add_size(group):
  group.add_argument(
    '--height',
    type=whole(1, PIXELS),
    metavar='PX',
    help="default: the model's own",
  )
  group.add_argument(
    '--width',
    type=whole(1, PIXELS),
    metavar='PX',
    help="default: the model's own",
  )
  group.add_argument(
    '--aspect-ratio',
    type=ratio,
    metavar='W:H',
    help="such as 16:9, at the model's usual area; instead "
    'of --height and --width',
  )


def _add_files(group):
  group.add_argument(
    '--format',
    default='png',
    metavar='NAME',
    choices=['png', 'jpg', 'webp'],
    help='png, jpg or webp (default: %(default)s)',
  )
  group.add_argument(
    '--decode',
    default='whole',
    metavar='HOW',
    choices=['whole', 'strips', 'tiles'],
    help='whole; strips: the same picture in a seventh of '
    'the memory at 4096 px; or tiles, which have seams, as '
    'diffusers does it (default: %(default)s)',
  )
  group.add_argument(
    '--shard-size',
    type=whole(),
    default=0,
    metavar='N',
    help='put N pictures each into tar files, as WebDataset '
    'reads them (default: single files)',
  )


def run(args: argparse.Namespace) -> int:
  """Samples; returns the exit code."""
  if args.aspect_ratio and (args.height or args.width):
    raise UserError(
      '--aspect-ratio and --height or --width are given; give one of the two.',
      key='--aspect-ratio',
      value=args.aspect_ratio,
    )
  jobs, problems = _jobs(args)
  choosers = best_of.load(args, jobs)
  by_line = args.prompts is not None
  jobs, unreadable = _possible(
    jobs, lambda job: best_of.check(choosers, args, job), by_line
  )
  edits.check_used(args, jobs)
  jobs, no_images = _possible(
    jobs, lambda job: edits.read(job, args.aspect_ratio), by_line
  )
  jobs, doubled = unique(jobs, args.format)
  output.check(args.out)
  if (count := sum(job.num_images for job in jobs)) > MOST_PICTURES:
    raise UserError(
      f'{count:,} pictures are more than {MOST_PICTURES:,}; '
      'lower --num-images, or split the prompt file.',
      key='--num-images',
      value=count,
      allowed=f'at most {MOST_PICTURES}',
    )
  pipe, settings = pipelines.open_pipeline(
    args,
    min(args.batch_size, sum(args.candidates * job.num_images for job in jobs)),
    encoder=any(job.image for job in jobs),
  )
  if args.decode != 'whole':
    from sana_jax.inference.arguments import parts_of

    parts_of(args.decode, pipe.autoencoder.module.spec.side)
    settings['parts'] = args.decode
  jobs = [_sized(pipe, job, args.aspect_ratio) for job in jobs]
  jobs, too_odd = _possible(
    jobs, lambda job: _check_job(pipe, job, settings), by_line
  )
  _warn_of_unknown(pipe, jobs)
  problems += unreadable + no_images + doubled + too_odd
  lower = 'lower --batch-size, --height or --width, or give --decode=strips.'
  with (
    explain_out_of_memory(lower),
    output.folder(args.out) as out,
    locks.hold(locks.within(out), 'sampling', '--out', shared=True) as lock,
  ):
    skipped = Skipped(out, args.prompts, problems)
    made, failed = drawing.draw(pipe, jobs, settings, args, out, lock, choosers)
    for cost in best_of.costs(choosers):
      print(cost)
    skipped.add([_failure(job, failed) for job in jobs if job.line in failed])
  if made:
    sheet = out / SHEET
    if made == 1:
      print(f'1 picture is in {out}, and on {sheet}.')
    else:
      shown = 'all'
      if made > drawing.ON_SHEET:
        shown = f'the first {drawing.ON_SHEET}'
      print(f'{made} pictures are in {out}, {shown} of them in {sheet}.')
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
    scorer=best_of.default(args.scorer),
    **edits.of_flags(args),
    control_image=args.control_image,
  )
  if args.prompts is not None:
    return read(args.prompts, default)
  if any(not p.strip() for p in args.prompt):
    raise UserError(
      '--prompt is empty; say what to show.', key='--prompt', value=''
    )
  return [
    dataclasses.replace(default, prompt=p, line=i)
    for i, p in enumerate(args.prompt, 1)
  ], []


def _possible(jobs, check, by_line):
  """(jobs that pass the check, as it returns them, problems of the others)."""
  kept, problems = [], []
  for job in jobs:
    try:
      kept.append(check(job) or job)
    except UserError as e:
      if not by_line:
        raise
      problems.append(problem(job.line, e, job.prompt))
  if not kept:
    raise UserError(
      f'No line can be used: {problems[0]}',
      key='--prompts',
      value=problems[0].line,
    )
  return kept, problems


def _warn_of_unknown(pipe, jobs):
  """Logs one warning for all prompts, before the first is drawn."""
  from sana_jax.inference import texts

  prompts = (t for job in jobs for t in (job.prompt, job.negative_prompt))
  texts.warn_of_unknown(pipe, prompts)


def _sized(pipe, job, ratio):
  """The job with a size, by its own aspect ratio or that of the command."""
  if job.aspect_ratio is not None:
    ratio = ratios.parsed(job.aspect_ratio)
  height, width = pipe.size_of_ratio(ratio or 1.0)
  return dataclasses.replace(
    job, height=job.height or height, width=job.width or width
  )


def _check_job(pipe, job, settings):
  from sana_jax.inference import few_steps

  check_area(job.height, job.width)
  if job.image is None:
    pipe.trained_size(job.height, job.width)
  control.check_job(pipe, job, settings)
  settings = settings | job.settings()
  if {'times', 'image'} & set(settings):
    few_steps.resolved(settings, settings)


def _failure(job, failed):
  return problem(job.line, failed[job.line], job.prompt)
