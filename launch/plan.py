"""Compile the train step for a pod without having it, in every layout.

  sana-jax plan --config sana_1600m_1024 --topology v5e:16x16 --out out/plan
  sana-jax plan --config sana_1600m_1024 --topology h200:1x4x8 \\
    --layouts fsdp,hybrid --per-chip-batch 4,8 --out out/plan
  sana-jax plan --config sana_1600m_1024 --topology v5p:4x4x8 \\
    --per-chip-batch fit --out out/plan

Reports for each layout whether it fits a chip's memory, its communication, the
best step time and what bounds it; for a layout that does not fit, changes that
make it fit. Topologies are v4, v5e, v5p, v6e and tpu7x slices, such as
v5e:16x16 or, for two, v5e:16x16@2; and a100, h100, h200 and b200 as
SLICESxHOSTSxGPUS. --out gets plan.json, plan.md and, for each layout that fits,
a file for sana-jax train --layout. Nothing runs on a device; compiled plans are
cached. Needs pip install -e '.[tpu]' -c constraints.txt, or [gpu].
"""

import argparse
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import math
import os
import re
import sys
import time

from tqdm import tqdm

from sana_jax.errors import UserError
from sana_jax.launch import bench, devices, output, plan_matrix, plan_report
from sana_jax.launch.config_files import apply_layout, checked_config, CONFIGS
from sana_jax.launch.flags import flag, refused, whole
from sana_jax.printable import counted

# Rounds of a search while nothing fits, and the memory limit of each next one.
_ROUNDS, _MUCH_LESS = 4, 0.75
OVERRIDES = True  # Takes --config.key=value.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  value = functools.partial(flag, parser)
  several = 'as in sana-jax train; several give a table of the fastest layouts'
  value('--config', 'FILE[:ARG],...', several)
  value('--topology', 'POD,...', 'such as v5e:16x16, v5p:4x4x8@2 or h200:1x4x8')
  value(
    '--layouts',
    'all|NAME,...',
    'shipped ones, or files with LAYOUT (default: all shipped ones)',
    default='all',
  )
  value(
    '--search',
    'N',
    'instead of --layouts: the N best meshes, remat policies, accumulations, '
    'kernels and batches of --per-chip-batch by formulas, compiled',
    whole(most=100),
  )
  value(
    '--per-chip-batch',
    'N,...|fit',
    "images a chip; fit finds the largest that fits (default: the config's "
    'batch_size)',
    batches,
    [],
  )
  parser.add_argument(
    '--mode',
    choices=['train', 'sample'],
    default='train',
    help='the step, or a sampler of all steps (default: %(default)s)',
  )
  value('--out', 'DIR', 'folder for the report')
  value(
    '--golden',
    'DIR',
    "compile DIR's plans again and print what differs, or, with --shardings, "
    'what needs no compiler; all, or those of --config and --topology',
  )
  for name, about in (
    ('--shardings', 'print the shardings, and compile nothing'),
    ('--update', 'write plans that differ from --golden, and new ones'),
    (
      '--calibrate',
      'measure the local devices, for later plans of pods of the same chips; '
      'takes no other argument',
    ),
  ):
    parser.add_argument(name, action='store_true', help=about)
  jobs = 'compilations at a time, of about 4 GiB each'
  value('--jobs', 'N', jobs, whole(1, 1000), min(2, os.cpu_count() or 1))
  parser.set_defaults(command=parser)


def run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Compiles, prints and writes; returns the exit code."""
  if args.calibrate:
    return calibrate(args, overrides)
  devices.none_but_cpu()
  if args.golden:
    from sana_jax.launch import plan_golden

    return plan_golden.run(args)
  for key in ('config', 'topology', *(() if args.shardings else ('out',))):
    if getattr(args, key) is None:
      raise UserError(
        f'--{key} is missing; sana-jax plan needs --config, '
        '--topology and --out, or --calibrate alone.',
        key=f'--{key}',
      )
  if args.out:
    output.check(args.out)
  if plan_matrix.has_several(args):
    return plan_matrix.run(args, overrides)
  if args.shardings:
    return print_shardings(args, checked_config(args.config, overrides))
  plan_one(args, overrides)
  return 0


def plan_one(args, overrides):
  """Compiles, prints and writes for one config and pod; returns the plans."""
  from sana_jax.analysis import topologies

  config = checked_config(args.config, overrides)
  pod = topologies.check(args.topology)
  tried = candidates(args, config, pod)
  with tqdm(
    total=len(tried), desc='layouts', unit='layout', disable=None
  ) as bar:
    runner = make_runner(args, bar)
    pairs = compile_all(args, runner, tried, pod)
    if args.search:
      pairs = roomier(args, config, pod, runner, bar, pairs)
    check_plans([plan for _, plan in pairs])
    notes = advise(runner, pairs, pod, remedies=not args.search)
  plan_report.finish(args, overrides, pairs, notes, runner)
  return [plan for _, plan in pairs]


def print_shardings(args, config) -> int:
  """Prints the shardings of each layout; needs no compiler."""
  from sana_jax.analysis import chips
  from sana_jax.tools.plan import golden

  pod = chips.parse(args.topology)
  print(golden.text(candidates(args, config, pod)), end='')
  return 0


def calibrate(args, overrides) -> int:
  """Measures and stores the rates of this machine's devices."""
  others = [key for key in bench.changed_flags(args) if key != 'calibrate']
  if others := [*others, *overrides]:
    raise UserError(
      '--calibrate takes no other argument, such as '
      f'{others[0].partition("=")[0]}.',
      key=others[0].partition('=')[0],
    )
  import jax

  from sana_jax.analysis import ceilings

  kind, found = jax.devices()[0].device_kind, ceilings.measure()
  print(ceilings.text(kind, found))
  print(f'Stored in {ceilings.write(kind, found)}.')
  return 0


def batches(value: str) -> list[int] | str:
  """The type of --per-chip-batch."""
  if value == 'fit':
    return value
  if not re.fullmatch(r'0*[1-9][0-9]{0,3}(,0*[1-9][0-9]{0,3})*', value):
    raise refused(value, 'whole numbers from 1, such as 1,2,4, or fit')
  return [int(n) for n in value.split(',')]


def candidates(args, config, pod):
  """Candidates of the requested layouts on this pod."""
  from sana_jax.tools.plan import candidates as made

  names = shipped() if args.layouts == 'all' else args.layouts.split(',')
  params, found = made.shapes(config), []
  if args.search:
    return searched(args, config, pod, params)
  for name in names:
    one = made.copied(config)
    one.lock()
    apply_layout(one, name)
    set_batch(one, args.per_chip_batch, pod)
    short = name.rpartition('/')[2].removesuffix('.py')
    found += made.make(short, one, pod, params)
  found = made.different(found)
  if all(c.problem for c in found):
    problems = ' '.join(f'{c.name}: {c.problem}' for c in found)
    raise UserError(
      f'{problems} Choose other --layouts, another --topology or '
      '--per-chip-batch.',
      key='--layouts',
      value=[c.name for c in found],
    )
  return found


def shipped():
  """Names of the layouts in the package."""
  return sorted(p.stem for p in (CONFIGS / 'layouts').glob('[!_]*.py'))


def searched(args, config, pod, params, tried=()):
  """Best candidates by formulas, estimated far below the memory of `tried`."""
  from sana_jax.tools.plan import candidates as made
  from sana_jax.tools.plan import search, steps

  if config.task != 'sana':
    raise UserError(
      f"--search supports only config.task='sana', not {config.task!r}; give "
      '--layouts.',
      key='--search',
      value=config.task,
      allowed=('sana',),
    )
  config = made.copied(config)
  set_batch(config, args.per_chip_batch, pod)
  several = args.per_chip_batch if args.per_chip_batch != 'fit' else ()
  forward = steps.forward_flops(config)
  total = made.count(params)
  guesses = [search.estimate(c.config, pod, total, forward) for c in tried]
  most = _MUCH_LESS * min((g.bytes for g in guesses), default=math.inf)
  found = search.best(config, pod, params, forward, args.search, several, most)
  if not found:
    raise UserError(
      f'No mesh of {pod.name} splits batch_size={config.batch_size} and this '
      'model; choose another --topology or --per-chip-batch.',
      key='batch_size',
      value=config.batch_size,
    )
  return found


def roomier(args, config, pod, runner, bar, pairs):
  """Adds (candidate, plan) of the next best while none fits."""
  from sana_jax.tools.plan import candidates as made

  params = made.shapes(config)
  for _ in range(_ROUNDS):
    if any(plan.fits for _, plan in pairs):
      break
    tried = [candidate for candidate, _ in pairs]
    known = {one.name for one in tried}
    more = searched(args, config, pod, params, tried)
    more = [one for one in more if one.name not in known]
    bar.total += len(more)
    pairs = pairs + compile_all(args, runner, more, pod)
  return pairs


def set_batch(config, per_chip, pod):
  """Sets the global batch that is compiled first."""
  if isinstance(per_chip, list) and per_chip:
    config.batch_size = per_chip[0] * pod.chips
  elif per_chip:
    config.batch_size = pod.chips * config.accumulate_steps


def make_runner(args, bar):
  """Runner that reports each plan."""
  from sana_jax.tools.plan.runner import Runner
  from sana_jax.tools.plan.tables import mesh_text

  began, seen = time.monotonic(), itertools.count(1)

  def on_plan(plan, cached):
    bar.update()
    left = max(0, bar.total - next(seen))
    if not cached and not plan.problem:
      each = (time.monotonic() - began) / runner.compiled
      fits = 'fits' if plan.fits else 'does not fit'
      bar.write(
        f'{plan.layout} ({mesh_text(plan.mesh)}, '
        f'{counted(plan.per_chip, "image")} a chip) {fits}; compiled in '
        f'{plan.compile_seconds:.0f} s, {left} to go, '
        f'{each * left / 60:.0f} min or less.',
        file=sys.stderr,
      )

  runner = Runner(args.topology, args.mode, jobs=args.jobs, on_plan=on_plan)
  return runner


def compile_all(args, runner, tried, pod):
  """(candidate, plan) of each layout and batch."""
  from sana_jax.tools.plan import fitting

  if args.per_chip_batch == 'fit':
    one = lambda candidate: fitting.fit(candidate, pod, runner.one)
    return runner.map(one, tried)
  several = tried
  if args.per_chip_batch and not args.search:
    several = [b for one in tried for b in batched(one, args, pod)]
  return runner.map(lambda c: (c, runner.one(c)), several)


def batched(candidate, args, pod):
  """The candidate with each of --per-chip-batch, under distinct names."""
  if candidate.problem or len(args.per_chip_batch) == 1:
    return [candidate]
  name = candidate.name
  return [
    dataclasses.replace(candidate.with_batch(n, pod), name=f'{name}_b{n}')
    for n in args.per_chip_batch
  ]


def check_plans(plans):
  """Raises UserError if every layout failed for the same reason."""
  problems = {p.problem for p in plans}
  if len(problems) == 1 and (problem := problems.pop()):
    raise UserError(problem)


def advise(runner, pairs, pod, remedies):
  """Notes on the plans and, with `remedies`, changes that make them fit."""
  from sana_jax.tools.plan import fitting, tables

  notes = tables.notes([plan for _, plan in pairs])
  if not remedies:
    return notes
  fit = [c for c, plan in pairs if plan.fits]
  large = [(c, p) for c, p in pairs if not p.problem and not p.fits]

  def helped(pair):
    candidate, plan = pair
    found = fitting.remedies(candidate, pod, fit, runner.one)
    return tables.short_of(plan, found)

  return notes + runner.map(helped, large)
