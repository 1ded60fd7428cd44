"""Upload a model folder to the Hugging Face hub.

  sana-jax push --model out/model --to OWNER/NAME --private
  sana-jax push --model out/model --to OWNER/NAME --dry-run

--model is a folder that sana-jax export or convert wrote. It is checked as for
loading, and its files are listed with their sizes; files that belong to no
model, such as the state of an optimizer, are refused.

The token is that of HF_TOKEN or of hf auth login. The same command continues an
upload that was stopped.
"""

import argparse
import pathlib

from sana_jax.errors import UserError
from sana_jax.launch import devices
from sana_jax.launch.flags import text
from sana_jax.printable import counted, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--model', required=True, metavar='DIR', type=text, help='the model folder'
  )
  parser.add_argument(
    '--to',
    required=True,
    dest='target',
    metavar='OWNER/NAME',
    type=text,
    help='the model on the hub, created if need be',
  )
  parser.add_argument(
    '--private',
    action='store_true',
    help='create it so that only its owner can read it',
  )
  parser.add_argument(
    '--revision', metavar='BRANCH', type=text, help='default: main'
  )
  parser.add_argument(
    '--message', metavar='TEXT', type=text, help='of the commit'
  )
  parser.add_argument(
    '--dry-run',
    action='store_true',
    help='check and list the files, without a token and without a network',
  )


def run(args: argparse.Namespace) -> int:
  """Uploads; returns the exit code."""
  devices.none_but_cpu()
  from sana_jax.weights import card, publishing

  publishing.check_id(args.target)
  publishing.check_revision(args.revision)
  folder = _folder(args.model)
  _check(folder)
  found = publishing.files_of(folder)
  for file in found:
    print(f'{_size(file.size):>10}  {file.path}')
  total = _size(sum(file.size for file in found))
  print(f'{counted(len(found), "file")}, {total}')
  if all(file.path != card.NAME for file in found):
    print(f'There is no {card.NAME}; sana-jax export writes one.')
  if args.dry_run:
    return 0
  address = publishing.upload(
    folder,
    found,
    args.target,
    private=args.private,
    revision=args.revision,
    message=args.message,
  )
  print(printable(address))
  return 0


def _folder(name) -> pathlib.Path:
  from sana_jax.weights import hub

  folder = hub.local(name)
  if not folder.is_dir():
    raise UserError(
      f'--model={printable(name, 200)} is no folder; give one that sana-jax '
      'export wrote.',
      key='--model',
      value=name,
    )
  return folder


def _check(folder) -> None:
  """Raises UserError unless the model can be loaded; reads no weights."""
  from sana_jax.weights import folder as folders
  from sana_jax.weights import kinds

  if (folder / 'model_index.json').is_file():
    from sana_jax.inference import model_index, schedulers
    from sana_jax.text import tokenizer

    model_index.read(folder)
    schedulers.read_scheduler(folder)
    model_index.check_parts(folder, tokenizer.load(folder / 'tokenizer'))
  parts = [p for p in kinds.PARTS if (folder / p / 'config.json').is_file()]
  if not parts:
    raise UserError(
      f'--model={folder} is no model: it has neither model_index.json nor one '
      f'of {", ".join(kinds.PARTS)}.',
      key='--model',
      value=str(folder),
    )
  for part in parts:
    folders.check(folder, part)


def _size(count) -> str:
  for unit in ('bytes', 'kB', 'MB'):
    if count < 1000:
      return f'{count:.3g} {unit}'
    count /= 1000
  return f'{count:,.3g} GB'
