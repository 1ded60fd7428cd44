"""Flags of a model, its sampler and its devices; opening of the pipeline."""

import argparse

from sana_jax.launch import devices
from sana_jax.launch.flags import (
  angles,
  backends,
  CPU_DEVICES,
  interval,
  not_negative,
  positive,
  prompt,
  sizes,
  weighted,
  whole,
)

# Those of sana_jax.diffusion.samplers, which takes seconds to import.
SAMPLERS = (
  'euler',
  'dpm++1m',
  'dpm++1m-heun',
  'dpm++2m',
  'dpm++2m-heun',
  'dpm++3m',
  'dpm++3m-heun',
  'scm',
)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags shared by `sample` and `evaluate`."""
  group = parser.add_argument_group('model and sampler')
  group.add_argument(
    '--model',
    required=True,
    metavar='NAME',
    help='a folder, a hub id, a zoo name, or shapes',
  )
  group.add_argument(
    '--seed', type=whole(0), default=0, metavar='N', help='default: %(default)s'
  )
  group.add_argument(
    '--steps',
    type=whole(1, 1000),
    metavar='N',
    help="model calls (default: the model's recommendation, else 20, and 2 "
    'for a Sprint)',
  )
  group.add_argument(
    '--guidance-scale',
    type=not_negative,
    metavar='S',
    help="default: the model's recommendation, else 4.5",
  )
  group.add_argument(
    '--negative-prompt',
    default='',
    type=prompt,
    metavar='TEXT',
    help='prompt to move away from',
  )
  group.add_argument(
    '--sampler',
    metavar='NAME',
    help=f'{", ".join(SAMPLERS[:-1])} or {SAMPLERS[-1]}, or the name of a '
    "scheduler of diffusers (default: the model's)",
  )
  add_lora(group)
  _add_guidance(group)
  group.add_argument(
    '--flow-shift',
    type=positive,
    metavar='S',
    help="of the time grid (default: the model's)",
  )
  group.add_argument(
    '--times',
    type=angles,
    metavar='T,...',
    help='of the sampler scm, the angles of its steps, instead of --steps '
    '(default: 1.5708,1.3 for two, else evenly spaced)',
  )
  add_device_arguments(parser)


def _add_guidance(group):
  group.add_argument(
    '--guidance-interval',
    type=interval,
    metavar='FROM:TO',
    help='times, of 1 for noise to 0, between which guidance '
    'takes place (default: 0:1)',
  )
  group.add_argument(
    '--pag-scale',
    type=not_negative,
    metavar='S',
    help='of perturbed-attention guidance (default: 0, none)',
  )
  group.add_argument(
    '--apg-eta',
    type=not_negative,
    metavar='X',
    help='adaptive projected guidance, keeping this much of '
    'what saturates colours (default: plain guidance)',
  )


def add_lora(parser, required: bool = False) -> None:
  """Declares --lora."""
  parser.add_argument(
    '--lora',
    action='append',
    type=weighted,
    default=None if required else [],
    required=required,
    metavar='FILE[:WEIGHT]',
    help='adapter: a file of any spelling, or its folder, and a factor of what '
    'it adds (default: 1); may be repeated',
  )


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags of commands that open a pipeline."""
  group = parser.add_argument_group('devices')
  group.add_argument(
    '--mesh',
    type=sizes,
    default={'data': -1},
    metavar='AXIS=N,...',
    help='how the devices share the work: data splits the '
    'pictures of a batch, sequence the rows of each '
    '(default: data=-1, all devices)',
  )
  group.add_argument(
    '--dtype',
    choices=['float32', 'bfloat16', 'float16'],
    help='default: float32 on CPU, else bfloat16',
  )
  group.add_argument(
    '--cpu-devices',
    type=whole(1, CPU_DEVICES),
    metavar='N',
    help='devices to split a CPU into (default: one a core)',
  )
  group.add_argument(
    '--kernels',
    type=backends,
    default={},
    metavar='OP=NAME,...',
    help='backends of operations, such as '
    'glumb_conv=mosaic_gpu (default: the fastest)',
  )


def open_pipeline(args: argparse.Namespace, pictures: int | None = None):
  """Loads the model onto this process's devices; returns it and its settings.

  A CPU is split into no more devices than there are pictures at a time: one
  device uses all cores for one picture. Raises UserError for requests that the
  model does not support.
  """
  devices.configure(args.cpu_devices, pictures)
  import jax

  from sana_jax.diffusion import samplers
  from sana_jax.inference.pipeline import Pipeline
  from sana_jax.sharding.mesh import make_mesh

  if args.sampler:
    args.sampler = samplers.named(args.sampler)
  mesh = make_mesh(args.mesh, jax.local_devices())
  pipe = Pipeline.from_pretrained(
    args.model, args.dtype, mesh, encoder=bool(getattr(args, 'image', None))
  )
  for path, weight in args.lora:
    pipe = pipe.load_lora(path, weight)
  return pipe, settings_of(args, pipe)


def settings_of(args: argparse.Namespace, pipe) -> dict:
  """Settings shared by all pictures; most defaults are omitted."""
  from sana_jax.inference import arguments, few_steps

  settings = {}
  for key in ('steps', 'guidance_scale'):
    value = getattr(args, key)
    settings[key] = pipe.default(key) if value is None else value
  settings['sampler'] = args.sampler or pipe.sampler
  guidance = {
    'interval': args.guidance_interval and list(args.guidance_interval),
    'pag_scale': args.pag_scale,
    'apg_eta': args.apg_eta,
  }
  if given := {k: v for k, v in guidance.items() if v is not None}:
    settings['guidance'] = given
  if args.flow_shift is not None:
    settings['flow_shift'] = args.flow_shift
  few_steps.check_guidance(
    pipe.transformer.module,
    arguments.guidance_of(settings['guidance_scale'], settings.get('guidance')),
  )
  return settings | _start(args, settings)


def _start(args, settings):
  """Settings of the sampler scm: its angles, and where an image starts.

  Raises UserError if they exclude each other, or another sampler is chosen.
  """
  from sana_jax.inference import few_steps, input_image

  given = {
    name: getattr(args, name, None) for name in ('times', 'image', 'strength')
  }
  given = {name: value for name, value in given.items() if value is not None}
  if not given:
    return {}
  steps = few_steps.resolved({**given, 'steps': args.steps}, settings)['steps']
  if 'image' in given:
    given['image'] = input_image.description(given['image'])
  return {**given, 'steps': steps}
