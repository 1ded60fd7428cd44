"""Train a model that a config describes, or go on where it was stopped.

  sana-jax train --config configs/shapes.py --workdir out/run
  sana-jax train --config configs/shapes.py:quick --workdir out/run \\
    --config.num_steps=2000 --config.optimizer.learning_rate=1e-3

The workdir holds checkpoints, metrics.jsonl, loss.png, sample grids and, at
the end, model/ in the diffusers layout. The same command resumes a run that
was stopped at any moment; it ends bit for bit as if it had not been.
"""

import argparse
from collections.abc import Sequence
import importlib.util
import pathlib
import traceback

from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax.errors import UserError
from sana_jax.launch import devices
from sana_jax.launch.backends import preferred
from sana_jax.launch.flags import whole

OVERRIDES = True  # Takes --config.key=value.
CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--config', required=True, metavar='FILE[:ARG]',
    help='a Python file with get_config(arg); a bare name is looked up among '
    'the shipped ones')
  parser.add_argument(
    '--workdir', required=True, metavar='DIR',
    help='the folder of this run, made if need be')
  parser.add_argument(
    '--cpu-devices', type=whole(), metavar='N',
    help='devices to split a CPU into (default: one a core, 8 at most)')
  parser.add_argument(
    '--distributed', action='store_true',
    help='one of several processes; found through SLURM, GKE or Cloud TPU')


def run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Trains; returns the exit code."""
  config = load_config(args.config)
  base.apply_overrides(config, overrides)
  base.check_keys(config)
  base.check(config)
  devices.configure(args.cpu_devices)
  from sana_jax.launch import terminal
  terminal.show_logs()
  terminal.hush_tensorstore()
  return start(config, args)


def start(config: ConfigDict, args: argparse.Namespace) -> int:
  """Imports what training needs, and only that late: --help stays fast."""
  import jax

  from sana_jax.optim import factory
  from sana_jax.sharding.mesh import batch_shard, make_mesh
  from sana_jax.training import loop, tasks, workdir
  if args.distributed:
    join()
  # What can be wrong is told before data are prepared and files written.
  mesh = make_mesh(config.mesh.to_dict())
  batch_shard(mesh, config.batch_size)
  factory.make(config.optimizer, config.num_steps, config.batch_size)
  workdir.compare(args.workdir, config, loop.FREE_KEYS)
  task = tasks.make(config, args.workdir)
  with preferred(config.kernels.to_dict(), 'config.kernels'):
    state = loop.train(config, task, args.workdir, mesh)
  done = int(jax.device_get(state.step)) >= config.num_steps
  return 0 if done else 143  # As a shell reports SIGTERM.


def join() -> None:
  """Finds the other processes."""
  import jax
  try:
    jax.distributed.initialize()
  except (RuntimeError, ValueError) as e:
    raise UserError(
      f'--distributed found no other processes ({brief(e)}); start it under '
      'SLURM, GKE or Cloud TPU, or leave the flag out.') from e


def load_config(name: str) -> ConfigDict:
  """The config of FILE, FILE:ARG or a shipped name.

  Raises UserError, with the line, for whatever goes wrong in the file.
  """
  file, _, arg = name.partition(':')
  path = pathlib.Path(file)
  if not path.is_file() and path.suffix != '.py':
    path = CONFIGS / f'{file}.py'
  if not path.is_file():
    shipped = sorted(p.stem for p in CONFIGS.glob('[!_]*.py'))
    raise UserError(f'--config={name}: there is no such file; shipped are '
                    f'{", ".join(shipped)}.')
  spec = importlib.util.spec_from_file_location('_config', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(arg)
  except UserError as e:
    raise UserError(f'--config={name}: {e}') from e
  except Exception as e:  # noqa: BLE001  It is the user's own code.
    lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__)
             if frame.filename == str(path)]
    line = getattr(e, 'lineno', None) or (lines or ['?'])[-1]
    raise UserError(f'--config={name} fails in line {line} ({brief(e)}); '
                    'mend the file.') from e
  if not isinstance(config, ConfigDict):
    raise UserError(f'--config={name}: get_config(arg) must return a '
                    f'ConfigDict, not {type(config).__name__}.')
  return config


def brief(error: Exception) -> str:
  """The error's type and the first line of what it says."""
  said = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {said[0]}'
