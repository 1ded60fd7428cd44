"""Convert a model between diffusers', NVIDIA's and our own format.

  sana-jax convert --from Sana_1600M_1024px.pth --to sana --format diffusers
  sana-jax convert --from sana_600m_512 --to sana.pth --format official
  sana-jax convert --from shapes --to teacher --format diffusers --dense-time
  sana-jax convert --from out/run/model --to native --format orbax

--from is a model folder (diffusers' layout or ours), a hub id, a name that
sana-jax zoo lists, the folder of one part, or a file with NVIDIA's names (.pth,
or .safetensors for a DC-AE). Tensors are converted one by one without loss; a
missing, surplus or wrong one ends the command before anything is written.

  diffusers  a folder for diffusers and sana-jax
  official   a .pth file with NVIDIA's names: one transformer or DC-AE
  orbax      a folder for sana-jax, the fastest to load onto many devices

--lora merges adapters into the transformer, in any format.

--dense-time and --norms prepare a teacher of SANA-Sprint. Its time embedding is
refitted to times in [0, 1], in closed form, and it generates nearly the same
pictures; the error of the fit is printed. Norms of queries and keys start with
scales of 1 and change the pictures until the model is trained further.
"""

import argparse
import pathlib

from sana_jax.errors import UserError
from sana_jax.launch import devices, output, pipelines, writing
from sana_jax.launch.flags import text

_DTYPES = ('float32', 'bfloat16', 'float16')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--from',
    required=True,
    dest='source',
    metavar='NAME',
    type=text,
    help='a folder, a file, a hub id or a zoo name',
  )
  parser.add_argument(
    '--to',
    required=True,
    dest='target',
    metavar='PATH',
    type=text,
    help='a new folder, or a new .pth file',
  )
  parser.add_argument(
    '--format',
    required=True,
    metavar='FORMAT',
    choices=['diffusers', 'official', 'orbax'],
    help='diffusers, official or orbax',
  )
  parser.add_argument(
    '--part',
    action='append',
    metavar='NAME',
    help='part to convert: transformer, vae, text_encoder or '
    'controlnet (default: all that are there)',
  )
  parser.add_argument(
    '--base',
    metavar='NAME',
    help='the model whose other parts complete the folder',
  )
  parser.add_argument(
    '--like',
    metavar='NAME',
    help='the zoo name of an official file, which holds no '
    "config (default: --base's, or inferred from its shapes, for "
    '1024 px)',
  )
  parser.add_argument(
    '--ema',
    action='store_true',
    help='of an official file, the EMA weights',
  )
  parser.add_argument(
    '--dense-time',
    action='store_true',
    help='refit the time embedding to times in [0, 1]',
  )
  parser.add_argument(
    '--norms',
    action='store_true',
    help='add QK-norm to the attention layers, which then need training',
  )
  parser.add_argument(
    '--dtype', choices=_DTYPES, help="result's dtype (default: each tensor's)"
  )
  pipelines.add_lora(parser)


def run(args: argparse.Namespace) -> int:
  """Converts; returns the exit code."""
  _check_target(args)
  devices.configure(1)
  from sana_jax.weights import exchange

  base = exchange.open_source(args.base) if args.base else None
  source = exchange.open_source(
    args.source, ema=args.ema, configs=_configs(base, args.like)
  )
  parts, notes = _added(_chosen(source.parts, args), args)
  if args.lora:
    parts = _fused(parts, args)
  if args.dtype:
    parts = {
      name: part._replace(tensors=exchange.cast(part.tensors, args.dtype))
      for name, part in parts.items()
    }
  folder = source.folder if not args.part else None
  if base and args.format != 'official':
    folder, parts = base.folder, {**base.parts, **parts}
  source = exchange.Source(parts, folder)
  print(writing.write(source, args.target, args.format, 'converting'))
  for note in (*notes, *_unread_by_diffusers(parts, args.format)):
    print(note)
  return 0


def _check_target(args):
  """Raises UserError if the path to write to is invalid."""
  official = pathlib.Path(args.target).suffix == '.pth'
  if (args.format == 'official') != official:
    raise UserError(
      f'--to={args.target} does not go with --format={args.format}: official '
      'is a file whose name ends in .pth, the others are folders; change one.',
      key='--to',
      value=args.target,
      allowed=args.format,
    )
  output.check_new(args.target, '--to')


def _added(parts, args):
  """The parts with what --dense-time and --norms add, and lines about it."""
  from sana_jax.weights import dense_time, teachers

  chosen = {'--dense-time': args.dense_time, '--norms': args.norms}
  if not (flags := [flag for flag, given in chosen.items() if given]):
    return parts, []
  if args.format == 'official':
    raise UserError(
      f'{flags[0]} does not go with --format=official, whose files hold no '
      'config; choose diffusers or orbax.',
      key='--format',
      value=args.format,
      allowed=('diffusers', 'orbax'),
    )
  if 'transformer' not in parts:
    raise UserError(
      f'{flags[0]} is for a transformer, which {", ".join(parts)} is not; '
      'convert that part, too.',
      key='--part',
      value=tuple(parts),
      allowed=('transformer',),
    )
  fields = {
    **(teachers.DENSE if args.dense_time else {}),
    **(teachers.NORMS if args.norms else {}),
  }
  part, fit = teachers.added(parts['transformer'], fields)
  notes = [] if fit is None else [dense_time.describe(fit)]
  return {**parts, 'transformer': part}, notes


def _unread_by_diffusers(parts, fmt):
  """A line about a part of a written folder that diffusers does not run."""
  from sana_jax.weights import controlnet

  net = parts.get('controlnet')
  name = net and net.config.get('_class_name')
  normed = fmt == 'diffusers' and name == controlnet.NORMED_CLASS
  return [controlnet.NORMED_NOTE] if normed else []


def _fused(parts, args):
  """The parts with the adapters of --lora merged into the transformer."""
  from sana_jax.weights.lora import fusing

  if 'transformer' not in parts:
    raise UserError(
      f'--lora is for a transformer, which {", ".join(parts)} is not; convert '
      'that part, too.',
      key='--lora',
      value=tuple(parts),
      allowed=('transformer',),
    )
  part = fusing.fused_part(parts['transformer'], args.lora)
  return {**parts, 'transformer': part}


def _configs(base, like):
  """Configs for a file without one: from --base's parts, or --like."""
  configs = {n: part.config for n, part in base.parts.items()} if base else {}
  if like:
    from sana_jax.weights import zoo

    configs |= zoo.get(like).configs()
  return configs


def _chosen(parts, args):
  """Returns the parts to convert; an official file holds one model."""
  wanted = args.part or list(parts)
  if args.format == 'official' and not args.part:
    wanted = [p for p in ('transformer', 'controlnet') if p in parts] or wanted
  if missing := sorted(set(wanted) - set(parts)):
    raise UserError(
      f'--part={missing[0]}: {args.source} has '
      f'{", ".join(parts)}; choose of these.',
      key='--part',
      value=missing[0],
      allowed=list(parts),
    )
  return {name: parts[name] for name in wanted}
