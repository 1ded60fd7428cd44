"""Measure speed and memory on the local devices.

  sana-jax bench chip
  sana-jax bench sample --model sana_600m_1024 --against diffusers
  sana-jax bench step --configs sana_1600m_1024+batch_size=16 --against xla
  sana-jax bench kernels --models sana_1600m_1024 --against torch

`sana-jax bench sample --help` lists the flags of one of them.
"""

import argparse
from collections.abc import Sequence
import datetime
import importlib.util
import pathlib
from typing import Any

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.launch import output
from sana_jax.launch.flags import flag, sizes, whole
from sana_jax.paths import expanded
from sana_jax.tools.report import Run, to_json, versions

WHAT = {
  'chip': 'a new accelerator, stage by stage, in minutes',
  'sample': 'the stages of a call of the pipeline',
  'kernels': 'the operations that have kernels',
  'step': 'the train step: swept, profiled, against its plan or the loop',
}
# Flags that are not part of a run's command.
_PLACES = ('out', 'render', 'note', 'workdir', 'jobs')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the benchmarks and their flags."""
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


def changed_flags(args: argparse.Namespace) -> dict[str, Any]:
  """Values of the command's flags that differ from the defaults."""
  known, usual = args.command.flags(), args.command.get_default
  return {
    key: value
    for key, value in vars(args).items()
    if f'--{key.replace("_", "-")}' in known and value != usual(key)
  }


def repeated_by(args: argparse.Namespace) -> str:
  """Command line of this run, without its output folder."""
  parts = [args.command.prog]
  for key, value in changed_flags(args).items():
    if key in _PLACES:
      continue
    if isinstance(value, dict):
      value = [f'{k}={v}' for k, v in value.items()]
    if isinstance(value, list):
      value = ','.join(map(str, value))
    flag = f'--{key.replace("_", "-")}'
    parts.append(flag if value is True else f'{flag} {value}')
  return ' '.join(parts)


def result(
  args: argparse.Namespace,
  records: list[Any],
  device: str,
  packages: Sequence[str],
  **facts: Any,
) -> Run:
  """Run of the records, with the setup of their measurement."""
  return Run(
    records,
    device,
    datetime.date.today().isoformat(),
    versions(*packages),
    repeated_by(args),
    facts,
    getattr(args, 'note', ''),
  )


def check(folder: str | None, flag: str = '--out') -> None:
  """Raises UserError if the folder cannot be written."""
  if folder:
    output.check(folder, flag)


def add_chips(parser: argparse.ArgumentParser) -> None:
  """Declares --compile-for and --mesh."""
  chips = 'v4, v5e, v5p, v6e or tpu7x and a shape (v5e:2x2), or h200:1x1x8'
  flag(parser, '--compile-for', 'TOPOLOGY', chips)
  mesh = 'of --compile-for (default: data=1)'
  flag(parser, '--mesh', 'AXIS=N,...', mesh, sizes, {'data': 1})


def add_dtype(parser: argparse.ArgumentParser) -> None:
  """Declares --dtype."""
  parser.add_argument(
    '--dtype',
    choices=['float32', 'bfloat16', 'float16'],
    help='default: float32 on CPU, else bfloat16',
  )


def add_ends(
  parser: argparse.ArgumentParser, repeats: int, of: str, page: str
) -> None:
  """Declares --repeats, --out and --render."""
  flag(parser, '--repeats', 'N', of, whole(), repeats)
  flag(parser, '--out', 'DIR', f'folder for the JSON file and {page}')
  about = 'writes the page of the JSON files of DIR again and measures nothing'
  flag(parser, '--render', 'DIR', about)


def publish(args: argparse.Namespace, name: str, report, result: Run) -> None:
  """Prints the table and writes the files of --out."""
  print(report.table(result))
  write(args.out, name, report, result)


def write(folder: str | None, name: str, report, result: Run) -> None:
  """Writes the result as JSON, and the page of all JSON files there."""
  if folder:
    with output.folder(folder) as out:
      files.write_text(out / f'{name.replace(":", "-")}.json', to_json(result))
      write_pages(folder, [report])


def write_pages(folder: str, reports: Sequence) -> None:
  """Renders the page of each report from its JSON files.

  Raises UserError if there are no files.
  """
  path = pathlib.Path(expanded(folder))
  found = [(report, sorted(path.glob(report.files))) for report in reports]
  if not any(paths for _, paths in found):
    raise UserError(
      f'{folder} has no JSON file of this command '
      f'({", ".join(report.files for report in reports)}).',
      key='--render',
      value=folder,
    )
  for report, paths in found:
    if paths:
      runs = [report.from_json(output.read(p, '--render')) for p in paths]
      picture = draw(path, report, runs)
      files.write_text(path / report.page, report.markdown(runs, picture))


def draw(folder: pathlib.Path, report, runs: Sequence[Run]) -> str:
  """Writes the plot of a page; returns its name, '' if there is none.

  A machine without matplotlib, such as one lent for minutes, has pages without
  plots.
  """
  content = report.bars(runs) if report.bars else None
  if not content or not content.groups:
    return ''
  if not importlib.util.find_spec('matplotlib'):
    return ''
  from sana_jax.tools import plots

  files.write_bytes(folder / report.picture, plots.bars(content))
  return report.picture
