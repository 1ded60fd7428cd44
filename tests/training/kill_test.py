"""A process that is killed at any moment loses nothing but time."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import sana_jax

TOY = pathlib.Path(__file__).with_name('toy.py')
SETTINGS = (
  'num_steps=90',
  'checkpoint_every_steps=6',
  'log_every_steps=1',
  'mesh={"data":-1}',
)


def start(workdir):
  root = pathlib.Path(sana_jax.__file__).parents[1]
  return subprocess.Popen(
    [sys.executable, '-W', 'error', TOY, workdir, *SETTINGS],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(root)},
    stderr=subprocess.PIPE,
    text=True,
  )


def steps_of(workdir):
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [
    json.loads(line)['step']
    for line in text.splitlines(keepends=True)
    if line.endswith('\n')
  ]


def kill_after(step, workdir, pause):
  process = start(workdir)
  while process.poll() is None and max(steps_of(workdir), default=0) < step:
    time.sleep(0.002)
  time.sleep(pause)  # Some moment of a step or a save.
  process.send_signal(signal.SIGKILL)
  log = process.communicate()[1]
  assert process.returncode == -signal.SIGKILL, log


def finish(process):
  log = process.communicate(timeout=120)[1]
  assert process.returncode == 0, log
  return log


def saved(workdir):
  about = workdir / 'checkpoints/90/about/metadata'
  return json.loads(about.read_text())


def weights(workdir):
  with np.load(workdir / 'model/model.npz') as model:
    return dict(model)


@pytest.mark.long
def test_a_killed_run_ends_where_the_uninterrupted_one_ends(tmp_path):
  seed = int.from_bytes(os.urandom(4))
  print(f'seed {seed}')
  chance = random.Random(seed)
  whole = start(tmp_path / 'whole')
  cut = tmp_path / 'cut'
  kill_after(chance.randint(7, 40), cut, chance.uniform(0, 0.05))
  kill_after(chance.randint(45, 80), cut, chance.uniform(0, 0.05))
  log = finish(start(cut))
  finish(whole)
  assert 'toy: from step 0 to 90' not in log  # It was resumed.
  ours, theirs = (weights(w) for w in (cut, tmp_path / 'whole'))
  assert ours and ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name])
  # Checksums of every array, the optimizer's too, and of the data's place.
  assert saved(cut) == saved(tmp_path / 'whole')
  assert steps_of(cut) == list(range(1, 91))
