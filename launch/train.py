"""Train a model that a config describes, or resume its training.

  sana-jax train --config configs/shapes.py --workdir out/run
  sana-jax train --config configs/shapes.py:quick --workdir out/run \\
    --config.num_steps=2000 --config.optimizer.learning_rate=1e-3
  sana-jax train --config configs/shapes.py --workdir out/run --layout fsdp

The workdir holds checkpoints, metrics.jsonl, loss.png, sample grids and, at
the end, model/ in the diffusers layout. The same command resumes an interrupted
run, bit for bit.
"""

import argparse
from collections.abc import Sequence

from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax.errors import UserError
from sana_jax.launch import devices, output
from sana_jax.launch.config_files import apply_layout, load_config
from sana_jax.launch.flags import steps

OVERRIDES = True  # Takes --config.key=value.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--config',
    required=True,
    metavar='FILE[:ARG]',
    help='a Python file with get_config(arg); a bare name is looked up among '
    'the shipped ones',
  )
  parser.add_argument(
    '--workdir',
    required=True,
    metavar='DIR',
    help='the folder of this run, created if needed',
  )
  parser.add_argument(
    '--layout',
    metavar='NAME',
    help='how devices share the work: a file with LAYOUT, or dp, fsdp, '
    'fsdp_tp, sequence or hybrid (default: from the config)',
  )
  devices.add_device_flags(parser)
  parser.add_argument(
    '--profile',
    type=steps,
    metavar='START:STOP',
    help='trace these steps, STOP not included, into DIR/profile; SIGUSR1 '
    'traces the next ones of a running process',
  )


def run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Trains; returns the exit code."""
  config = load_config(args.config)
  if args.layout:
    apply_layout(config, args.layout)
  base.apply_overrides(config, overrides)
  base.check_keys(config)
  base.check(config)
  check_profile(args.profile, config.num_steps)
  if args.distributed is None:  # Otherwise all processes check it together.
    output.check_place(args.workdir, '--workdir')
  devices.configure(args.cpu_devices)
  from sana_jax.launch import terminal

  terminal.show_logs()
  return start(config, args, overrides)


def start(
  config: ConfigDict, args: argparse.Namespace, overrides: Sequence[str]
) -> int:
  """Imports training's dependencies only here, so that --help is fast."""
  import jax

  from sana_jax import tasks
  from sana_jax.launch import hosts
  from sana_jax.sharding.mesh import check_batch, make_mesh
  from sana_jax.tasks import init_from
  from sana_jax.training import loop, optimizers, run_config, startup

  hosts.join(config, args.workdir, args.distributed)
  init_from.set_model(config, overrides, args.workdir)
  # Raise errors before data are prepared and files written.
  mesh = make_mesh(config.mesh.to_dict())
  check_batch(mesh, config.batch_size, config.accumulate_steps)
  optimizers.make(config, tasks.objective(config))
  run_config.compare(args.workdir, config)
  with startup.hold(args.workdir):
    task = tasks.open_task(config, args.workdir, mesh)
    state = loop.train(config, task, args.workdir, mesh, args.profile)
  done = int(jax.device_get(state.step)) >= config.num_steps
  return 0 if done else 143  # Exit code of SIGTERM in a shell.


def check_profile(traced: range | None, num_steps: int) -> None:
  """Raises UserError for steps beyond the run."""
  if traced and traced.stop > num_steps + 1:
    raise UserError(
      f'--profile={traced.start}:{traced.stop} ends after the last step; give '
      f'START:STOP with STOP up to {num_steps + 1}, or raise '
      'config.num_steps.',
      key='--profile',
    )
