"""Several configs on several pods: a plan of each, and who wins where."""

import argparse
from collections.abc import Sequence
import itertools
import json
import pathlib
import re

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.launch import output
from sana_jax.launch.config_files import checked_config

HEAD = (
  'config',
  'pod',
  'layout',
  'mesh',
  'images/chip',
  'GiB',
  'of',
  'step s',
  'bound by',
  'img/s',
  'MFU',
  'days',
)
_TITLE = """# The fastest layouts, pod by pod

*Compiled* by {versions}, not run; times are *predicted* from the chips' data
sheets and are the best that can be hoped for. Of each config and pod, the
fastest of those that were compiled; a layout's name says its remat, its
accumulation (`in2`) and whether our own kernels are used. Made by

    {command}

"""


def is_asked(args: argparse.Namespace) -> bool:
  """Whether there is more than one config or pod."""
  return ',' in (args.config or '') + (args.topology or '')


def run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """A folder for each in --out, and winners.md with a line for each."""
  from sana_jax.analysis import topologies
  from sana_jax.launch import plan_report
  from sana_jax.tools import report as reports
  from sana_jax.tools.plan import cache

  pairs = list(
    itertools.product(args.config.split(','), args.topology.split(','))
  )
  if args.shardings:
    raise UserError('--shardings takes one --config and one --topology.')
  for config, topology in pairs:
    checked_config(config, overrides)
    topologies.check(topology)
  found = [HEAD]
  for config, topology in pairs:
    print(f'\n{config} on {topology}')
    found.append(
      row(config, topology, *winner(args, overrides, config, topology))
    )
  print('\n' + '\n'.join(reports.plain(found, 4)))
  with output.folder(args.out) as out:
    command = plan_report.command(args, overrides)
    files.write_text(
      out / 'winners.md',
      _TITLE.format(versions=reports.listed(cache.compilers()), command=command)
      + '\n'.join(reports.markdown(found, 4))
      + '\n',
    )
    files.write_text(
      out / 'winners.json',
      json.dumps(
        {'command': command, 'compilers': cache.compilers(), 'rows': found},
        indent=1,
      )
      + '\n',
    )
  return 0


def winner(args, overrides, config, topology):
  """(the fastest plan that fits or None, why there is none)."""
  from sana_jax.analysis import ceilings
  from sana_jax.launch import plan
  from sana_jax.tools.plan import report

  name = re.sub(r'[^\w.-]', '-', f'{config}-{topology}')
  one = argparse.Namespace(
    **vars(args)
    | {
      'config': config,
      'topology': topology,
      'out': str(pathlib.Path(args.out) / name),
    }
  )
  try:
    plans = plan.plan_one(one, overrides)
  except UserError as e:  # What cannot be here may be on other pods.
    print(e)
    return None, str(e)
  first = report.ranked(plans, ceilings.of(plans[0].pod.chip)[0])[0]
  return (first, '') if first.fits else (None, 'none fits')


def row(config, topology, plan, problem):
  """Cells of the table."""
  from sana_jax.analysis import ceilings
  from sana_jax.tools.plan import report, tables

  if plan is None:
    return (config, topology, problem, *[''] * (len(HEAD) - 3))
  p = report.predict(plan, ceilings.of(plan.pod.chip)[0])
  return (
    config,
    topology,
    plan.layout,
    tables.mesh_text(plan.mesh),
    f'{plan.per_chip:g}',
    f'{plan.needed / tables.GIB:.2f}',
    f'{plan.usable / tables.GIB:.2f}',
    f'{p.seconds:.3g}',
    p.bound,
    f'{p.images_per_second:,.0f}',
    f'{p.mfu:.0%}',
    f'{p.days:.2f}',
  )
