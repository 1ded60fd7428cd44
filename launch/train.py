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
import sys

from absl import logging
from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax.errors import UserError
from sana_jax.launch import devices

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
    '--cpu-devices', type=int, metavar='N',
    help='devices to split a CPU into (default: one a core, 8 at most)')
  parser.add_argument(
    '--distributed', action='store_true',
    help='one of several processes; found through SLURM, GKE or Cloud TPU')


def run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Trains; returns the exit code."""
  config = load_config(args.config)
  base.apply_overrides(config, overrides)
  base.check(config)
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  devices.configure(args.cpu_devices)
  try:
    return start(config, args)
  except ModuleNotFoundError as e:
    raise UserError(f'Training needs the package {e.name}; install it with '
                    "pip install 'sana_jax[train]'.") from e


def start(config: ConfigDict, args: argparse.Namespace) -> int:
  """Imports what training needs, and only that late: --help stays fast."""
  import jax

  from sana_jax.sharding.mesh import batch_shard, make_mesh
  from sana_jax.training import loop, tasks, workdir
  if args.distributed:
    jax.distributed.initialize()
  mesh = make_mesh(config.mesh.to_dict())
  batch_shard(mesh, config.batch_size)  # Before any data are prepared.
  workdir.claim(args.workdir, config, loop.FREE_KEYS)
  task = tasks.make(config, args.workdir)
  state = loop.train(config, task, args.workdir, mesh)
  return 0 if int(state.step) >= config.num_steps else 143


def load_config(name: str) -> ConfigDict:
  """The config of FILE, FILE:ARG or a shipped name."""
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
  sys.modules['_config'] = module
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise UserError(f'--config={name}: the file has no get_config(arg).')
  return module.get_config(arg)
