"""Images that pictures of `sana-jax sample` start from, and masks of them."""

import argparse
from collections.abc import Sequence
import dataclasses

from sana_jax.errors import UserError
from sana_jax.inference import ratios
from sana_jax.inference.jobs import EDITS, Job
from sana_jax.launch.flags import fraction, whole
from sana_jax.paths import expanded


def add_arguments(group: argparse._ArgumentGroup) -> None:
  """Declares the flags of an image and its mask."""
  group.add_argument(
    '--image', metavar='FILE', help='image from which the pictures start'
  )
  group.add_argument(
    '--strength',
    type=fraction,
    metavar='X',
    help='how far from --image sampling starts, from 0, which keeps it, to 1, '
    'which is noise (default: 0.6, with --mask 1)',
  )
  group.add_argument(
    '--mask',
    metavar='FILE',
    help='image of the size of --image: white is repainted, and the other '
    'pixels stay as they are',
  )
  group.add_argument(
    '--mask-blur',
    type=whole(0, 1000),
    metavar='PX',
    help='radius of the soft edge of --mask (default: 0)',
  )
  group.add_argument(
    '--padding-mask-crop',
    type=whole(0, 2**15),
    metavar='PX',
    help='draws the surroundings of --mask only, with this margin, at the '
    "model's own size",
  )


def of_flags(args: argparse.Namespace) -> dict:
  """Fields of a Job from the flags, which are the defaults of all lines."""
  return {key: getattr(args, key) for key in EDITS}


def check_used(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
  """Raises UserError for a flag that no line has a use for."""
  for key in EDITS[1:]:
    needed = 'image' if key in ('strength', 'mask') else 'mask'
    if getattr(args, key) is not None and not any(
      getattr(job, needed) for job in jobs
    ):
      flag = f'--{key.replace("_", "-")}'
      raise UserError(
        f'{flag} is given, which needs --{needed}.',
        key=flag,
        value=getattr(args, key),
        allowed=f'with --{needed}',
      )


def read(job: Job, ratio: float | None) -> Job:
  """The job with its size by its image, and digests of its files.

  `ratio` is that of the command. Raises UserError if a file is no image, or a
  mask of another size.
  """
  if job.image is None:
    return job
  from sana_jax.inference import editing, input_image

  files = {
    key: input_image.description(expanded(getattr(job, key)), key)
    for key in ('image', 'mask')
    if getattr(job, key)
  }
  given = vars(job) | files
  sizes = {}
  found = editing.opened(given)
  if not (ratio or ratios.parsed(job.aspect_ratio or '')):
    own = editing.own_size(given | found)
    sizes = {key: getattr(job, key) or own[key] for key in own}
  return dataclasses.replace(job, **files, **sizes)
