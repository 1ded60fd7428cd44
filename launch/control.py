"""Flags of ControlNets: nets, control images and how they are used."""

import argparse

from sana_jax.errors import UserError
from sana_jax.launch.flags import fraction, not_negative
from sana_jax.printable import counted

ANNOTATORS = ('canny', 'hed', 'scribble')
WIRINGS = ('diffusers', 'official')
_OPTIONS = ('scale', 'start', 'end', 'annotator')


def add_model_arguments(group) -> None:
  """Declares the flags of the nets."""
  group.add_argument(
    '--controlnet',
    action='append',
    default=[],
    metavar='NAME',
    help='a folder, a hub id, a zoo name or an official file with a '
    'ControlNet for the model; repeated for several. The folder of a '
    'SanaControlNetPipeline has its own',
  )
  group.add_argument(
    '--wiring',
    choices=WIRINGS,
    help="how it is connected: as in diffusers or NVIDIA's code (default: as "
    'its config.json has it, else diffusers)',
  )


def add_arguments(group) -> None:
  """Declares all flags."""
  add_model_arguments(group)
  group.add_argument(
    '--control-image',
    action='append',
    metavar='FILE',
    help='its control image; with several nets one for each, in their order. '
    'Lines of --prompts may have another, in the column control_image',
  )
  for name, kind, text in (
    ('scale', not_negative, 'factor of its outputs (default: 1)'),
    ('start', fraction, 'fraction of the steps before it (default: 0)'),
    ('end', fraction, 'fraction of the steps after which it ends (default: 1)'),
  ):
    group.add_argument(
      f'--control-{name}', action='append', type=kind, metavar='X', help=text
    )
  group.add_argument(
    '--control-annotator',
    action='append',
    choices=ANNOTATORS,
    help='makes the control image of the given one: canny, hed or scribble',
  )


def with_nets(args: argparse.Namespace, pipe):
  """The pipeline with the command's ControlNets."""
  for name in getattr(args, 'controlnet', ()):
    pipe = pipe.with_controlnet(name, args.wiring)
  if getattr(args, 'wiring', None) and not args.controlnet:
    nets = tuple(
      net._replace(module=net.module.clone(wiring=args.wiring))
      for net in pipe.controlnets
    )
    pipe = pipe.replace(controlnets=nets)
  return pipe


def settings(args: argparse.Namespace, pipe) -> dict:
  """`control` of `Pipeline.draw`; {} without any option.

  Raises UserError for an invalid one, or options without a net.
  """
  from sana_jax.inference import hints

  given = {name: getattr(args, f'control_{name}', None) for name in _OPTIONS}
  given = {
    name: values[0] if len(values) == 1 else values
    for name, values in given.items()
    if values is not None
  }
  if given and not pipe.controlnets:
    raise UserError(
      f'--control-{next(iter(given))} is given, and there is no ControlNet; '
      'add --controlnet.',
      key='--controlnet',
    )
  hints.options_of(given, len(pipe.controlnets))
  return {'control': given} if given else {}


def check_job(pipe, job, options: dict) -> None:
  """Raises UserError unless a job's control images can be used."""
  from sana_jax.inference import hints

  images = images_of(job)
  hints.check_given(pipe, images or None, None)
  nets = len(pipe.controlnets)
  if len(images) != nets:
    raise UserError(
      f'{counted(len(images), "control image")} for '
      f'{counted(nets, "ControlNet")}; give one for each.',
      key='control_image',
      value=len(images),
      allowed=(nets,),
    )
  shown = job.height, job.width
  for image in images:
    hints.pixels(image, shown, pipe.trained_size(*shown))
  if images:
    hints.options_of(options.get('control'), len(images))


def images_of(job) -> tuple[str, ...]:
  """Files of the control images of a job."""
  image = job.control_image
  return (image,) if isinstance(image, str) else tuple(image or ())


def described(job) -> list[dict] | None:
  """Files and digests of the control images, for metadata."""
  from sana_jax.inference import input_image

  return [input_image.description(x) for x in images_of(job)] or None


def about(args: argparse.Namespace) -> dict:
  """Metadata of the command's nets."""
  if not getattr(args, 'controlnet', None):
    return {}
  return {'controlnets': args.controlnet, 'wiring': args.wiring}
