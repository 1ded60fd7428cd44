"""Times train steps on random data, or compiles them for other chips.

  sana-jax bench step --configs sana_1600m_1024+batch_size=16 --against xla
  sana-jax bench step --sweep --profile --out docs/bench
  sana-jax bench step --against-plan --out docs/bench
  sana-jax bench step --against-loop --configs shapes_dc_ae
  sana-jax bench step --configs sana_1600m_1024+mesh.fsdp=64 \\
    --compile-for v5p:4x4x4

A config is one of sana-jax train, with what +KEY=VALUE changes of it. Each has
a process of its own: one that does not fit is told and the next one runs.
Prints images/s, MFU and what a plan predicts. --sweep runs every config with
each remat policy, kernels off and on; --profile tells what the fastest loses
most to. --against-plan compares in full with what sana-jax plan predicts.
--against-loop compares a run of sana-jax train, with its data, log and
checkpoints, with a bare loop that calls the same step. --compile-for runs
nothing: it says what memory a chip needs and which kernels and collectives are
called (needs pip install 'sana_jax[tpu]' or [gpu]). --out writes a JSON file,
anew after each config, and a page of all that are there.
"""

import argparse
import datetime
import itertools
import re
import sys
import tempfile

from sana_jax.errors import UserError
from sana_jax.launch import bench, devices
from sana_jax.launch.flags import backends, prompt, text, whole

# They differ in width, tokens, batch and remat; a laptop holds them.
_PLANNED = ','.join(
  [
    'shapes',
    'shapes+batch_size=128+model.remat=full',
    'sana_600m_512+dtype=float32+model.depth=2+batch_size=4',
    'sana_1600m_1024+dtype=float32+model.depth=1+batch_size=1',
  ]
)
_SWEPT = 'sana_600m_512+batch_size=128,sana_1600m_1024+batch_size=32'
_REMATS = ('none', 'dots', 'full')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--configs',
    type=text,
    metavar='FILE[:ARG][+KEY=VALUE...],...',
    help='as of sana-jax train; +KEY=VALUE is its '
    '--config.KEY=VALUE (default: '
    'sana_1600m_1024+batch_size=16; others for --sweep, '
    '--against-plan and --against-loop)',
  )
  kind = parser.add_mutually_exclusive_group()
  kind.add_argument(
    '--sweep', action='store_true', help='each remat policy, kernels off and on'
  )
  kind.add_argument(
    '--against-plan', action='store_true', help='what a plan predicts, in full'
  )
  kind.add_argument(
    '--against-loop',
    action='store_true',
    help='the training loop around the step',
  )
  kind.add_argument(
    '--compile-for',
    type=text,
    metavar='TOPOLOGY',
    help='such as v5p:4x4x4, v6e:4x4 or h200:1x1x8',
  )
  parser.add_argument(
    '--profile',
    action='store_true',
    help='trace some steps, and tell the largest losses',
  )
  parser.add_argument(
    '--kernels',
    type=backends,
    default={},
    metavar='OP=NAME,...',
    help="backends of operations (default: the config's)",
  )
  parser.add_argument(
    '--against', choices=['xla'], help='time it without kernels too, in turn'
  )
  parser.add_argument(
    '--repeats',
    type=whole(),
    default=5,
    metavar='N',
    help='rounds of three steps (default: %(default)s)',
  )
  parser.add_argument(
    '--steps',
    type=whole(),
    default=100,
    metavar='N',
    help='of a block of --against-loop (default: %(default)s)',
  )
  parser.add_argument(
    '--rounds',
    type=whole(),
    default=4,
    metavar='N',
    help='blocks of --against-loop with a checkpoint, and as '
    'many without (default: %(default)s)',
  )
  parser.add_argument(
    '--workdir',
    type=text,
    metavar='DIR',
    help='for --against-loop: of a training, whose latents '
    'and text are used if the data are the same; nothing '
    'else there is touched',
  )
  parser.add_argument(
    '--note',
    type=prompt,
    default='',
    metavar='TEXT',
    help='for the page: what else was running',
  )
  bench.add_places(parser, 'the page')


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench import loop_report, step_report

  if args.render:
    bench.write_pages(
      args.render,
      (
        step_report.MEASURED,
        step_report.COMPILED,
        step_report.PLANNED,
        loop_report.LOOP,
      ),
    )
    return 0
  bench.check(args.out)
  asked = [(name, config_of(name)) for name in _configs(args).split(',')]
  if args.against_loop:
    if len(asked) > 1:
      raise UserError('--against-loop takes one of --configs.')
    return _say(args, loop_report.LOOP, _loop(args, *asked[0]), 'loop')
  variants = _variants(args, asked)
  if args.compile_for:
    return _say(
      args, step_report.COMPILED, _compiled(args, variants), 'compiled-step'
    )
  report, prefix = (
    (step_report.PLANNED, 'plan')
    if args.against_plan
    else (step_report.MEASURED, 'step')
  )
  for result in _measured(args, variants):
    if any(r.seconds for r in result.records):
      bench.write(args.out, file_name(args, prefix, result), report, result)
  print(report.table(result))
  if not any(r.seconds for r in result.records):
    raise UserError('No step ran: ' + result.records[0].failed)
  return 0


def _configs(args):
  return args.configs or (
    _PLANNED
    if args.against_plan
    else _SWEPT
    if args.sweep
    else 'shapes'
    if args.against_loop
    else 'sana_1600m_1024+batch_size=16'
  )


def _say(args, report, result, prefix):
  print(report.table(result))
  bench.write(args.out, file_name(args, prefix, result), report, result)
  return 0


def config_of(name: str):
  """The config of FILE[:ARG][+KEY=VALUE...]; UserError for a bad one."""
  from sana_jax.launch.config_files import checked_config

  file, *changes = name.split('+')
  return checked_config(file, [f'--config.{c}' for c in changes])


def _variants(args, asked):
  """Checked variants to measure or compile."""
  from sana_jax import kernels, tasks
  from sana_jax.tools.bench import timing
  from sana_jax.tools.bench.step import Variant

  found = []
  for name, config in asked:
    tasks.objective(config)  # Raises for what is no step.
    if args.sweep:
      for remat, side in itertools.product(_REMATS, timing.SIDES):
        config.model.remat = remat
        found.append(
          Variant(
            f'{name}+model.remat={remat}',
            config.to_dict(),
            {f'kernels {side}': side},
          )
        )
      continue
    mine = {op: by for op, by in config.kernels.items() if by} | args.kernels
    sides = {
      ', '.join(f'{op}={by}' for op, by in sorted(mine.items()))
      or 'sana_jax': mine
    }
    if args.against:
      sides['xla'] = dict.fromkeys(kernels.OPS, 'xla')
    found.append(Variant(name, config.to_dict(), sides))
  return found


def _run(
  args, records, device, packages=('sana_jax', 'jax', 'jaxlib'), **facts
):
  from sana_jax.tools.report import Run

  return Run(
    records,
    device,
    datetime.date.today().isoformat(),
    bench.versions(*packages),
    bench.repeated_by(args),
    facts,
    args.note,
  )


def _measured(args, variants):
  """Runs of the report, each with one more record."""
  import jax

  # This process only asks: it must not take the accelerator's memory.
  jax.config.update('jax_platforms', 'cpu')
  devices.configure(most=1)
  from sana_jax.tools.bench import step

  records, count = [], sum(len(v.sides) for v in variants)
  for record in step.records(variants, args.repeats, args.profile):
    records.append(record)
    said = record.failed or f'{record.best:.3g} s'
    print(
      f'{len(records)}/{count} {record.config} by {record.by}: {said}',
      file=sys.stderr,
    )
    yield _run(
      args, list(records), next((r.device for r in records if r.device), '')
    )


def _compiled(args, variants):
  """A Run of what the compiler says."""
  from sana_jax.tools.bench import step

  records = [
    record
    for variant in variants
    for record in step.compile_for(variant, args.compile_for)
  ]
  return _run(args, records, args.compile_for, ('sana_jax', 'jax', 'libtpu'))


def _loop(args, name, config):
  """A Run of the training loop beside its step."""
  devices.configure()
  from sana_jax import tasks
  from sana_jax.analysis import device
  from sana_jax.sharding.mesh import make_mesh
  from sana_jax.tools.bench import loop

  mesh = make_mesh(config.mesh.to_dict())
  if mesh.is_multi_process:
    raise UserError('--against-loop is for one process.')
  with tempfile.TemporaryDirectory(prefix='bench_loop') as folder:
    task = tasks.open_task(config, args.workdir or folder)
    found = loop.measure(
      config, task, folder, mesh, steps=args.steps, rounds=args.rounds
    )
  return _run(
    args,
    found.blocks,
    device.name(),
    ('sana_jax', 'jax', 'grain'),
    config=name,
    data=config.data.source,
    batch_size=config.batch_size,
    threads=found.threads,
    save_every=config.checkpoint_every_steps,
    mesh=dict(mesh.shape),
  )


def file_name(args, prefix: str, result) -> str:
  """Name of the JSON file, one for each kind of device and set of configs."""
  from sana_jax.kernels import tuning

  names = _configs(args).replace('.py', '') + '-sweep' * args.sweep
  return '-'.join(
    filter(
      None,
      [
        prefix,
        tuning.file_name(result.device),
        result.facts.get('data', ''),
        '' if prefix == 'plan' else re.sub(r'[^\w.=]+', '-', names)[:120],
      ],
    )
  )
