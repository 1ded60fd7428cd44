"""Measure speed and memory, on the devices that are here.

  sana-jax bench chip
  sana-jax bench sample --model sana_600m_1024 --against diffusers
  sana-jax bench step --configs sana_1600m_1024+batch_size=16 --against xla
  sana-jax bench kernels --models sana_1600m_1024 --against torch

`sana-jax bench sample --help` lists the flags of one of them.
"""

import argparse
from collections.abc import Sequence
import importlib
import importlib.metadata
import pathlib

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.launch import output
from sana_jax.launch.flags import text
from sana_jax.paths import expanded

WHAT = {
  'chip': 'the first minutes on an accelerator, stage by stage',
  'sample': 'the stages of a call of the pipeline',
  'kernels': 'the operations that have kernels',
  'step': 'the train step: swept, profiled, beside its plan or the loop',
}
# Not part of what repeats a run.
_PLACES = ('out', 'render', 'note', 'workdir')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares what can be measured, and the flags of each."""
  kinds = parser.add_subparsers(metavar='WHAT', required=True, dest='what')
  for what, summary in WHAT.items():
    module = importlib.import_module(f'sana_jax.launch.bench_{what}')
    kind = kinds.add_parser(
      what,
      help=summary,
      description=module.__doc__,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(kind)
    kind.set_defaults(run_bench=module.run, command=kind)


def run(args: argparse.Namespace) -> int:
  """Measures; returns the exit code."""
  return args.run_bench(args)


def repeated_by(args: argparse.Namespace) -> str:
  """The command line of this run, without where it writes."""
  said = [args.command.prog]
  for key, value in vars(args).items():
    default = args.command.get_default(key)
    flag = f'--{key.replace("_", "-")}'
    if flag not in args.command.flags() or key in _PLACES or value == default:
      continue
    if isinstance(value, dict):
      value = ','.join(f'{k}={v}' for k, v in value.items())
    said.append(flag if value is True else f'{flag} {value}')
  return ' '.join(said)


def versions(*packages: str) -> dict[str, str]:
  """Of those that are installed."""
  out = {}
  for name in packages:
    try:
      out[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return out


def check(folder: str | None, flag: str = '--out') -> None:
  """Raises UserError, before any work is done, if the folder cannot be one."""
  if folder:
    output.check(folder, flag)


def add_places(parser: argparse.ArgumentParser, page: str) -> None:
  """Declares --out and --render."""
  parser.add_argument(
    '--out',
    type=text,
    metavar='DIR',
    help=f'folder for the JSON file and {page}',
  )
  parser.add_argument(
    '--render',
    type=text,
    metavar='DIR',
    help='writes the page of the JSON files of DIR again and measures nothing',
  )


def write(folder: str | None, name: str, report, result) -> None:
  """--out: the result as JSON, and the page of all that are there."""
  if folder:
    from sana_jax.tools.report import to_json

    with output.folder(folder) as out:
      files.write_text(out / f'{name.replace(":", "-")}.json', to_json(result))
      write_pages(folder, [report])


def write_pages(folder: str, reports: Sequence) -> None:
  """Makes the page of each report anew from its files.

  Raises UserError where there are none at all.
  """
  path = pathlib.Path(expanded(folder))
  found = [(report, sorted(path.glob(report.files))) for report in reports]
  if not any(paths for _, paths in found):
    raise UserError(
      f'{folder} has no JSON file of this command '
      f'({", ".join(report.files for report in reports)}).'
    )
  for report, paths in found:
    if paths:
      runs = [report.from_json(output.read(p, '--render')) for p in paths]
      files.write_text(path / report.page, report.markdown(runs))
