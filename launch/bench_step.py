"""Times train steps on random data, or compiles them for other chips.

  sana-jax bench step --configs sana_1600m_1024+batch_size=16 --against xla
  sana-jax bench step --sweep --profile --out docs/bench
  sana-jax bench step --against-plan --out docs/bench
  sana-jax bench step --against-loop --configs shapes_dc_ae
  sana-jax bench step --configs sana_1600m_1024+mesh.fsdp=64 \\
    --compile-for v5p:4x4x4

A config is one of sana-jax train, with changes +KEY=VALUE. Each has its own
process; one that does not fit is reported and the next one runs. Prints
images/s, MFU and the plan's prediction. --sweep runs every config with each
remat policy, kernels off and on; --profile prints the largest losses of the
fastest. --against-plan compares in full with sana-jax plan. --against-loop
compares a run of sana-jax train, with its data, log and checkpoints, with a
bare loop that calls the same step. --compile-for runs nothing: it reports the
memory, kernels and collectives of a chip's program (needs pip install -e
'.[tpu]' -c constraints.txt, or [gpu]). --out updates a JSON file after each
config, and writes a page of all JSON files there.
"""

import argparse
import functools
import itertools
import re
import sys
import tempfile

from sana_jax.errors import UserError
from sana_jax.launch import bench, devices
from sana_jax.launch.flags import backends, flag, prompt, whole

# They differ in width, tokens, batch and remat, and fit on a laptop.
_PLANNED = ','.join(
  [
    'shapes+dtype=float32',
    'shapes+dtype=float32+batch_size=128+model.remat=full',
    'sana_600m_512+dtype=float32+init_from=+model.depth=2+batch_size=4',
    'sana_1600m_1024+dtype=float32+init_from=+model.depth=1+batch_size=1',
  ]
)
_SWEPT = 'sana_600m_512+batch_size=128,sana_1600m_1024+batch_size=32'
_PACKAGES = ('sana_jax', 'jax', 'jaxlib')
# Modes by their flags, and the modes in which other flags have an effect.
_MODES = {
  '': 'a measurement',
  'sweep': '--sweep',
  'against_plan': '--against-plan',
  'against_loop': '--against-loop',
  'compile_for': '--compile-for',
}
_MEASURED = ('', 'sweep', 'against_plan')
_CHOSEN = ('', 'against_plan', 'compile_for')  # A sweep chooses kernels itself.
_APPLIES = {
  'profile': _MEASURED,
  'repeats': _MEASURED,
  'kernels': _CHOSEN,
  'against': _CHOSEN,
  'steps': ('against_loop',),
  'rounds': ('against_loop',),
  'workdir': ('against_loop',),
}
_REMATS = ('none', 'dots', 'full')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  value = functools.partial(flag, parser)
  value(
    '--configs',
    'FILE[:ARG][+KEY=VALUE...],...',
    'as of sana-jax train; +KEY=VALUE is its --config.KEY=VALUE (default: '
    'sana_1600m_1024+batch_size=16; others for --sweep, --against-plan and '
    '--against-loop)',
  )
  kind = parser.add_mutually_exclusive_group()
  for name, about in (
    ('--sweep', 'each remat policy, kernels off and on'),
    ('--against-plan', 'the prediction of a plan, in full'),
    ('--against-loop', 'the training loop around the step'),
  ):
    kind.add_argument(name, action='store_true', help=about)
  chips = 'such as v5p:4x4x4, v6e:4x4 or h200:1x1x8'
  flag(kind, '--compile-for', 'TOPOLOGY', chips)
  parser.add_argument(
    '--profile',
    action='store_true',
    help='trace some steps, and print the largest losses',
  )
  own = "backends of operations (default: the config's)"
  value('--kernels', 'OP=NAME,...', own, backends, {})
  parser.add_argument(
    '--against', choices=['xla'], help='alternate with a side without kernels'
  )
  _add_loop_flags(value)
  value('--note', 'TEXT', 'for the page: what else was running', prompt, '')
  bench.add_ends(parser, 5, 'rounds of three steps', 'the page')


def _add_loop_flags(value):
  """Declares the flags of --against-loop."""
  value('--steps', 'N', 'of a block of --against-loop', whole(), 100)
  value(
    '--rounds',
    'N',
    'blocks of --against-loop with a checkpoint, and as many without',
    whole(),
    4,
  )
  value(
    '--workdir',
    'DIR',
    "for --against-loop: a training run's, whose cached latents and text are "
    'used if the data are the same; nothing else there is changed',
  )


def run(args: argparse.Namespace) -> int:
  """Measures, prints and writes; returns the exit code."""
  from sana_jax.tools.bench import loop_report, step_report

  if args.render:
    reports = step_report.MEASURED, step_report.COMPILED, step_report.PLANNED
    bench.write_pages(args.render, [*reports, loop_report.LOOP])
    return 0
  bench.check(args.out)
  check_flags(args)
  configs = [(name, config_of(name)) for name in _configs(args).split(',')]
  if args.against_loop:
    if len(configs) > 1:
      raise UserError('--against-loop takes one of --configs.', key='--configs')
    return _publish(args, 'loop', loop_report.LOOP, _loop(args, *configs[0]))
  variants = _variants(args, configs)
  if args.compile_for:
    found = _compiled(args, variants)
    return _publish(args, 'compiled-step', step_report.COMPILED, found)
  report, prefix = step_report.MEASURED, 'step'
  if args.against_plan:
    report, prefix = step_report.PLANNED, 'plan'
  for result in _measured(args, variants):
    if any(r.seconds for r in result.records):
      bench.write(args.out, file_name(args, prefix, result), report, result)
  print(report.table(result))
  if not any(r.seconds for r in result.records):
    raise UserError(
      'No step ran: ' + result.records[0].failed,
      key='--configs',
      value=result.records[0].failed,
    )
  return 0


def check_flags(args: argparse.Namespace) -> None:
  """Raises UserError for a flag without effect in the chosen mode."""
  mode = next((mode for mode in _MODES if mode and getattr(args, mode)), '')
  for key, value in bench.changed_flags(args).items():
    allowed = [_MODES[m] for m in _APPLIES.get(key, _MODES)]
    if _MODES[mode] not in allowed:
      name = f'--{key.replace("_", "-")}'
      raise UserError(
        f'{name} has no effect on {_MODES[mode]}, only on '
        f'{" and ".join(allowed)}; leave it out.',
        key=name,
        value=value,
        allowed=allowed,
      )


def _configs(args):
  if args.configs:
    return args.configs
  if args.against_plan:
    return _PLANNED
  if args.against_loop:
    return 'shapes'
  return _SWEPT if args.sweep else 'sana_1600m_1024+batch_size=16'


def _publish(args, prefix, report, result):
  bench.publish(args, file_name(args, prefix, result), report, result)
  return 0


def config_of(name: str):
  """Config of FILE[:ARG][+KEY=VALUE...]; raises UserError if invalid."""
  from sana_jax.launch.config_files import checked_config

  file, *changes = name.split('+')
  return checked_config(file, [f'--config.{c}' for c in changes])


def _variants(args, configs):
  """Validated variants to measure or compile."""
  from sana_jax import kernels, tasks
  from sana_jax.tools.bench import timing
  from sana_jax.tools.bench.step import Variant

  found = []
  for name, config in configs:
    tasks.objective(config)  # Raises if it has no train step.
    if args.sweep:
      for remat, side in itertools.product(_REMATS, timing.SIDES):
        config.model.remat = remat
        by = {f'kernels {side}': side}
        swept = f'{name}+model.remat={remat}'
        found.append(Variant(swept, config.to_dict(), by))
      continue
    mine = {op: by for op, by in config.kernels.items() if by} | args.kernels
    label = ', '.join(f'{op}={by}' for op, by in sorted(mine.items()))
    sides = {label or 'sana_jax': mine}
    if args.against:
      sides['xla'] = dict.fromkeys(kernels.OPS, 'xla')
    found.append(Variant(name, config.to_dict(), sides))
  return found


def _measured(args, variants):
  """Yields a Run after each record."""
  import jax

  # Workers measure: this process must not use the accelerator's memory.
  jax.config.update('jax_platforms', 'cpu')
  devices.configure(most=1)
  from sana_jax.tools.bench import step

  records, count = [], sum(len(v.sides) for v in variants)
  for record in step.records(variants, args.repeats, args.profile):
    records.append(record)
    outcome = record.failed or f'{record.best:.3g} s'
    print(
      f'{len(records)}/{count} {record.config} by {record.by}: {outcome}',
      file=sys.stderr,
    )
    kind = next((r.device for r in records if r.device), '')
    yield bench.result(args, list(records), kind, _PACKAGES)


def _compiled(args, variants):
  """Run of the compiled variants."""
  from sana_jax.tools.bench import step

  records = [
    record
    for variant in variants
    for record in step.compile_for(variant, args.compile_for)
  ]
  packages = ('sana_jax', 'jax', 'libtpu')
  return bench.result(args, records, args.compile_for, packages)


def _loop(args, name, config):
  """Run of the training loop against its step."""
  devices.configure()
  from sana_jax import tasks
  from sana_jax.analysis import device
  from sana_jax.sharding.mesh import make_mesh
  from sana_jax.tools.bench import loop

  mesh = make_mesh(config.mesh.to_dict())
  if mesh.is_multi_process:
    raise UserError(
      '--against-loop is for one process.',
      key='--against-loop',
      allowed='one process',
    )
  with tempfile.TemporaryDirectory(prefix='bench_loop') as folder:
    task = tasks.open_task(config, args.workdir or folder)
    found = loop.measure(
      config, task, folder, mesh, steps=args.steps, rounds=args.rounds
    )
  return bench.result(
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
  """JSON file name, one per kind of device and set of configs."""
  from sana_jax.kernels import tuning

  parts = [prefix, tuning.file_name(result.device), result.facts.get('data')]
  if prefix != 'plan':
    names = _configs(args).replace('.py', '') + '-sweep' * args.sweep
    parts.append(re.sub(r'[^\w.=]+', '-', names)[:120])
  return '-'.join(filter(None, parts))
