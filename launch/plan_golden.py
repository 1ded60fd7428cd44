"""Writes golden plans, and compares them with the current code."""

import argparse
import dataclasses
import difflib
import pathlib

from tqdm import tqdm

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.launch import output
from sana_jax.launch.config_files import load_config
from sana_jax.paths import expanded


def run(args: argparse.Namespace) -> int:
  """Prints the differences, or writes them; returns 1 if there are any."""
  from sana_jax.analysis import topologies
  from sana_jax.tools.plan import golden

  folder = pathlib.Path(expanded(args.golden))
  if args.update:
    output.check(args.golden, '--golden')
  known = wanted(args, [golden.read(p) for p in sorted(folder.glob('*.txt'))])
  if not args.shardings:
    for one in known:
      topologies.check(one.topology)
  differ = 0
  for one in tqdm(known, desc='plans', unit='plan', disable=None):
    now, path = made(args, one), folder / one.name
    if args.update:
      with output.folder(args.golden, '--golden'):
        files.write_text(path, str(now))
    elif str(now) != str(one):
      differ += 1
      show(path, one, now)
  same = 'written' if args.update else f'{len(known) - differ} unchanged'
  print(f'{len(known)} plans: {same}, {differ} differ.')
  return int(differ > 0)


def wanted(args, known):
  """Golden plans of --config and --topology; with --update, also a new one."""
  from sana_jax.tools.plan import golden

  is_of = lambda one: (
    args.config in (None, one.config) and args.topology in (None, one.topology)
  )
  found = list(filter(is_of, known))
  if not found and args.update and args.config and args.topology:
    found = [golden.Golden(args.config, args.topology, '')]
  if not found:
    there = ', '.join(one.name for one in known) or 'none at all'
    raise UserError(
      f'--golden={args.golden} has no such plan; it has {there}. With '
      '--config, --topology and --update, one is made.',
      key='--golden',
      value=args.golden,
      allowed=[one.name for one in known],
    )
  return found


def made(args, one):
  """The plan by the current code.

  The compiled part is kept with --shardings, and if the program is unchanged; a
  plan that has none gets none.
  """
  from sana_jax.analysis import chips
  from sana_jax.launch import plan as command
  from sana_jax.tools.plan import cache, golden
  from sana_jax.tools.plan.runner import Runner

  config, pod = load_config(one.config), chips.parse(one.topology)
  every = argparse.Namespace(layouts='all', search=None, per_chip_batch=[])
  found = command.candidates(every, config, pod)
  now = dataclasses.replace(one, shardings=golden.text(found))
  layout = golden.chosen(found)
  has_none = one.shardings and not one.compiled
  if args.shardings or layout is None or has_none:
    return now
  runner = Runner(one.topology)
  program = golden.program(one, cache.compilers())
  if program and runner.unchanged(layout, program):
    return now
  plan = runner.one(layout)
  if plan.problem:
    raise UserError(plan.problem)
  return dataclasses.replace(now, compiled=golden.compiled(plan))


def show(path, before, now):
  """Prints a diff."""
  lines = [str(plan).splitlines(keepends=True) for plan in (before, now)]
  diff = difflib.unified_diff(*lines, str(path), 'now', n=2)
  print(''.join(diff), end='')
