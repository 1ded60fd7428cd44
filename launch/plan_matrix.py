"""Plans of several configs on several pods, and the fastest layout of each."""

import argparse
from collections.abc import Mapping, Sequence
import itertools
import json
import pathlib
import re
from typing import Any

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.launch import output
from sana_jax.launch.config_files import checked_config


def has_several(args: argparse.Namespace) -> bool:
  """Whether more than one config or pod is requested."""
  return ',' in (args.config or '') + (args.topology or '')


def run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Writes a folder for each to --out, and winners.md with a line for each."""
  from sana_jax.analysis import topologies
  from sana_jax.launch import plan_report
  from sana_jax.tools import report as reports
  from sana_jax.tools.plan import cache, tables

  several = args.config.split(','), args.topology.split(',')
  pairs = list(itertools.product(*several))
  if args.shardings:
    raise UserError(
      '--shardings takes one --config and one --topology.', key='--shardings'
    )
  for config, topology in pairs:
    checked_config(config, overrides)
    topologies.check(topology)
  found = [tables.WINNERS]
  for config, topology in pairs:
    print(f'\n{config} on {topology}')
    start = {'config': config, 'pod': topology}
    cells = start | winner(args, overrides, config, topology)
    found.append(tuple(cells.get(name, '') for name in tables.WINNERS))
  print('\n' + '\n'.join(reports.plain(found, 4)))
  command = plan_report.command_line(args, overrides)
  facts = {'command': command, 'compilers': cache.compilers(), 'rows': found}
  with output.folder(args.out) as out:
    files.write_text(out / 'winners.json', json.dumps(facts, indent=1) + '\n')
    write_page(out, facts)
  return 0


def write_page(out: pathlib.Path, facts: Mapping[str, Any]) -> None:
  """Writes winners.md, and winners.png if any layout fits."""
  from sana_jax.tools import plots
  from sana_jax.tools.plan import winners

  content = winners.bars(facts)
  picture = 'winners.png' if content.groups else ''
  if picture:
    files.write_bytes(out / picture, plots.bars(content))
  files.write_text(out / 'winners.md', winners.markdown(facts, picture))


def winner(args, overrides, config, topology):
  """Cells of the fastest plan that fits, or of the reason for none."""
  from sana_jax.analysis import ceilings
  from sana_jax.launch import plan
  from sana_jax.tools.plan import report, tables

  name = re.sub(r'[^\w.-]', '-', f'{config}-{topology}')
  changed = {'config': config, 'topology': topology}
  changed['out'] = str(pathlib.Path(args.out) / name)
  try:
    plans = plan.plan_one(argparse.Namespace(**vars(args) | changed), overrides)
  except UserError as e:  # It may be valid on other pods.
    print(e)
    return {'layout': str(e)}
  chip, _ = ceilings.measured(plans[0].pod.chip)
  first = report.ranked(plans, chip)[0]
  return tables.cells(first, chip) if first.fits else {'layout': 'none fits'}
