"""Two runs on one folder: the second one ends and names the first."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import sana_jax
from sana_jax.errors import UserError

ROOT = pathlib.Path(sana_jax.__file__).parents[1]
TOY = ROOT / 'tests/training/toy.py'


@contextlib.contextmanager
def running(*command, **env):
  """A process of Python's, killed at the end."""
  with subprocess.Popen(
      [sys.executable, '-W', 'error', *map(str, command)],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT),
           **env}, stderr=subprocess.PIPE, text=True) as process:
    try:
      yield process
    finally:
      process.kill()


def training(workdir, **settings):
  return running(TOY, workdir, *(
    f'{key}={json.dumps(value)}' for key, value in settings.items()))


def wait_for(folder, pattern, process):
  """Until a file of that name is there."""
  deadline = time.monotonic() + 300
  while not list(folder.glob(pattern)):
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(.01)


def steps_of(workdir):
  return [json.loads(line)['step'] for line in
          (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_two_trainers_of_a_workdir(tmp_path, toy):
  settings = dict(num_steps=10**6, log_every_steps=1, mesh={'data': -1})
  with training(tmp_path, **settings) as first:
    wait_for(tmp_path, 'checkpoints/[0-9]*/about/metadata', first)
    first.send_signal(signal.SIGSTOP)  # It is there all the same.
    with pytest.raises(UserError) as refused:
      toy.run(tmp_path, **{**settings, 'num_steps': 20})
    assert refused.value.exit_code == 75
    assert f'process {first.pid} on ' in str(refused.value)
    assert ' training since 2' in str(refused.value)
    assert first.poll() is None
    first.kill()
  last = max(int(p.name) for p in (tmp_path / 'checkpoints').iterdir()
             if p.name.isdigit())
  toy.run(tmp_path, **{**settings, 'num_steps': last + 5})
  assert steps_of(tmp_path) == list(range(1, last + 6))
  assert not list(tmp_path.glob('.lock*'))
