"""Change the rank of adapters, merge several, or extract one from two models.

  sana-jax lora resize --lora style.safetensors --rank 4 --to small.safetensors
  sana-jax lora merge --lora a.safetensors --lora b.safetensors:0.5 \\
    --model sana_1600m_1024 --to both.safetensors
  sana-jax lora extract --model base --tuned tuned --rank 32 \\
    --to difference.safetensors

Files are read in any spelling (diffusers, peft, kohya, ComfyUI, NVIDIA's names;
LoRA, DoRA, LoKr) and written for diffusers and sana-jax. --model is the model
of the adapters: a folder, a hub id or a zoo name, whose layers must fit. To
merge adapters into a model, see `sana-jax convert --lora`.

--rank is the largest rank, --keep the fraction of an update's norm below which
a layer's rank may be smaller. The relative error of the result is printed.
"""

import argparse
import pathlib

from sana_jax.errors import UserError
from sana_jax.launch import devices, output, pipelines
from sana_jax.launch.flags import fraction, text, whole
from sana_jax.printable import counted

_MOST_RANK = 2**12
COMMANDS = {
  'resize': 'write an adapter of another rank',
  'merge': 'write one adapter for several',
  'extract': 'write the difference of two models as an adapter',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  commands = parser.add_subparsers(metavar='COMMAND', required=True)
  for name, about in COMMANDS.items():
    command = commands.add_parser(name, help=about, description=about)
    command.set_defaults(action=name)
    if name == 'extract':
      command.add_argument(
        '--tuned', required=True, metavar='NAME', help='the other model'
      )
    else:
      pipelines.add_lora(command, required=True)
    _add_shared(command, name)


def _add_shared(command, name):
  command.add_argument(
    '--model',
    required=True,
    metavar='NAME',
    help='the model: a folder, a hub id, a zoo name, or shapes',
  )
  command.add_argument(
    '--to', required=True, type=text, metavar='FILE', help='a new file'
  )
  command.add_argument(
    '--rank',
    type=whole(1, _MOST_RANK),
    required=name != 'merge',
    metavar='N',
    help='largest rank'
    + ' (default: the sum of the ranks, which is exact)' * (name == 'merge'),
  )
  command.add_argument(
    '--keep',
    type=fraction,
    default=1.0,
    metavar='X',
    help="fraction of each update's norm to keep (default: %(default)s)",
  )


def run(args: argparse.Namespace) -> int:
  """Writes the result; returns the exit code."""
  target = pathlib.Path(output.check_new(args.to, '--to'))
  if target.suffix != '.safetensors':
    raise UserError(
      f'--to={args.to} must end in .safetensors.',
      key='--to',
      value=args.to,
      allowed='*.safetensors',
    )
  devices.configure(1)
  from sana_jax.weights.lora import resizing, writing

  size = resizing.Size(args.rank or _MOST_RANK, args.keep)
  note = ''
  if args.action == 'extract':
    updates, note = _extracted(args, size)
  else:
    exact = _exact(args)
    cut = args.action == 'resize' or args.rank or args.keep < 1
    updates = resizing.resized(exact, size) if cut else exact
    note = f'relative error {resizing.error(exact, updates):.2g}'
  target.parent.mkdir(parents=True, exist_ok=True)
  writing.write_file(target, updates)
  ranks = sorted({low.rank for low in updates.values()})
  shown = str(ranks[0]) if len(ranks) == 1 else f'{ranks[0]} to {ranks[-1]}'
  print(f'{args.to}: {counted(len(updates), "layer")}, rank {shown}; {note}')
  return 0


def _exact(args):
  """The update of --lora, or the sum of several."""
  from sana_jax.weights import folder, hub
  from sana_jax.weights.lora import reading, resizing
  from sana_jax.weights.lora.combining import Weighted

  module = folder.describe(hub.find(args.model), 'transformer')
  if args.action == 'resize':
    if len(args.lora) > 1:
      raise UserError(
        '--lora is given more than once; resize one, or use merge.',
        key='--lora',
        value=len(args.lora),
      )
    path, weight = args.lora[0]
    return {
      key: low._replace(scale=low.scale * weight)
      for key, low in reading.read(path, module).items()
    }
  files = [Weighted(reading.read(path, module), w) for path, w in args.lora]
  return resizing.merged(files, None)


def _extracted(args, size):
  """The difference of two models, and a note on what it leaves out."""
  import numpy as np

  from sana_jax.weights import kinds
  from sana_jax.weights.lora import names, resizing

  base, tuned = (_transformer(name) for name in (args.model, args.tuned))
  module = kinds.of_config(base.config, 'transformer').module(
    base.config, np.float32
  )
  shapes = [
    {key: x.shape for key, x in part.tensors.items()} for part in (base, tuned)
  ]
  if shapes[0] != shapes[1]:
    other = next(k for k in shapes[0] if shapes[0][k] != shapes[1].get(k))
    raise UserError(
      f'--tuned={args.tuned} is of another size than --model={args.model}: '
      f'{other} is {shapes[1].get(other)} and {shapes[0][other]}.',
      key='--tuned',
      value=args.tuned,
    )
  keys = names.keys(module)
  found = resizing.extracted(base.tensors, tuned.tensors, keys, size)
  if not found.updates:
    raise UserError(
      f'--tuned={args.tuned} has the weights of --model={args.model}.',
      key='--tuned',
      value=args.tuned,
    )
  note = f'relative error {found.error:.2g}'
  if found.others:
    note += f'; also different: {counted(found.others, "tensor")} of no layer'
  return found.updates, note


def _transformer(name):
  from sana_jax.weights import exchange

  parts = exchange.open_source(name).parts
  if 'transformer' not in parts:
    raise UserError(f'{name} has no transformer.', key='--model', value=name)
  return parts['transformer']
