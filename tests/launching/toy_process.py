"""Toy training of tests/training, as a process of sana-jax launch."""

import argparse
import importlib.util
import json
import os
import pathlib
import sys

SETTINGS = {
  'num_steps': 36,
  'checkpoint_every_steps': 6,
  'log_every_steps': 1,
  'pictures_every_steps': 0,
  'mesh': {'data': 2, 'fsdp': 2},
}


def toy():
  path = pathlib.Path(__file__).parents[1] / 'training/toy.py'
  spec = importlib.util.spec_from_file_location('toy', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  for name in (
    'command',
    '--config',
    '--workdir',
    '--cpu-devices',
    '--distributed',
  ):
    parser.add_argument(name)
  args = parser.parse_args()
  print(f'process {os.getpid()}', flush=True)
  address, count, index = args.distributed.split(',')
  module = toy()
  module.start(
    [
      f'devices={args.cpu_devices}',
      'process=' + json.dumps([address, int(count), int(index)]),
    ]
  )
  state = module.run(args.workdir, **SETTINGS)
  sys.exit(0 if int(state.step) == SETTINGS['num_steps'] else 143)
