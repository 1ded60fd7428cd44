"""Output of sana-jax launch --where slurm, run by a real SLURM.

  launch/test -m slow tests/launch/slurm_test.py

Two processes of two devices each are warned of the end of their time, put back
into the queue and killed, and end with the bits of a run that was left alone.
As root, Debian's packages are installed where they are missing.
"""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__)
ROOT = HERE.parents[2]
STEPS, EVERY = 60, 5
CONFIG = f'''
"""The smallest of trainings."""
from sana_jax import config as base


def get_config(arg=''):
  config = base.train('text_encoder')
  config.num_steps = {STEPS}
  config.batch_size = 8
  config.checkpoint_every_steps = {EVERY}
  config.log_every_steps = 1
  config.pictures_every_steps = 0
  config.model.update(width=16, depth=1, heads=2, kv_heads=1, hidden=16,
                      head_dim=8)
  config.text.update(length=320, examples=16)
  return config
'''


@pytest.fixture(scope='module')
def slurm():
  """The module slurm_cluster.py."""
  path = HERE.with_name('slurm_cluster.py')
  spec = importlib.util.spec_from_file_location('slurm_cluster', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if lacking := module.install():
    pytest.skip(f'needs a SLURM: {lacking}')
  return module


@pytest.fixture
def cluster(slurm, tmp_path, monkeypatch):
  """Runs a command of SLURM's."""
  with slurm.cluster(tmp_path / 'cluster') as env:
    monkeypatch.setenv('SLURM_CONF', env['SLURM_CONF'])
    yield lambda *command: slurm.output(env, *command, check=True)


def launch(tmp_path, where, *more):
  config = tmp_path / 'tiny.py'
  config.write_text(CONFIG)
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'sana_jax.launch.cli',
      'launch',
      '--where',
      where,
      '--topology',
      'cpu:2x2',
      '--config',
      config,
      '--workdir',
      tmp_path / where,
      '--out',
      tmp_path / 'out',
      '--wait-seconds',
      '1',
      *more,
    ],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    text=True,
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def steps(workdir):
  return {
    int(p.name) for p in (workdir / 'checkpoints').glob('*') if p.name.isdigit()
  }


def newest(workdir):
  return max(steps(workdir), default=0)


class Job:
  """Submitted job, its state and its logs."""

  def __init__(self, cluster, output, tmp_path):
    (self.id,) = re.findall(r'Submitted batch job (\d+)', output)
    self.cluster, self.workdir = cluster, tmp_path / 'slurm'
    self.logs = tmp_path / 'out/logs'

  def state(self):
    return re.search(
      r'JobState=(\w+)', self.cluster('scontrol', 'show', 'job', self.id)
    )[1]

  def until(self, holds, seconds=600):
    deadline = time.monotonic() + seconds
    while not holds():
      assert time.monotonic() < deadline, (self.state(), self.output())
      time.sleep(0.05)

  def output(self):
    return {p.name: p.read_text() for p in self.logs.glob('*.log')}

  def progress(self):
    """Waits for another checkpoint."""
    at = newest(self.workdir)
    self.until(lambda: newest(self.workdir) >= at + EVERY)

  def starts_again(self):
    """Starts the requeued job, which SLURM delays by two minutes.

    In the second in which it was put back, slurmd still refuses its
    credential, which is revoked, and SLURM drops the job.
    """
    self.until(lambda: self.state() == 'PENDING')
    time.sleep(3)
    self.cluster('scontrol', 'update', f'jobid={self.id}', 'starttime=now')
    self.until(lambda: self.state() == 'RUNNING')

  def trainers(self):
    """Process ids of the training processes, by their number."""
    found = {}
    for folder in pathlib.Path('/proc').glob('[0-9]*'):
      try:
        command = (folder / 'cmdline').read_bytes().split(b'\0')
        environment = (folder / 'environ').read_bytes().split(b'\0')
      except OSError:
        continue
      rank = [x for x in environment if x.startswith(b'SLURM_PROCID=')]
      if (
        b'train' in command
        and b'srun' not in command[0]
        and (f'--workdir={self.workdir}'.encode() in command)
        and (b'supervise' not in command[2])
        and rank
      ):
        found[int(rank[0].partition(b'=')[2])] = int(folder.name)
    return found


@pytest.mark.slow
def test_a_job_that_is_stopped_in_every_way_ends_with_the_same_bits(
  cluster, tmp_path
):
  (tmp_path / 'whole').mkdir()
  launch(tmp_path / 'whole', 'local')
  output = launch(tmp_path, 'slurm')
  job = Job(cluster, output, tmp_path)
  whole, cut = tmp_path / 'whole/local', job.workdir

  job.progress()
  # As SLURM does before the time is up: a checkpoint out of turn is saved.
  cluster('scancel', '--signal=USR1', '--batch', job.id)
  job.until(lambda: 'Stopped by SIGTERM' in job.output()['process-0.log'])
  job.starts_again()
  job.progress()
  cluster('scontrol', 'requeue', job.id)
  job.starts_again()
  job.progress()
  os.kill(job.trainers()[1], signal.SIGKILL)
  job.until(lambda: job.state() == 'COMPLETED')

  logs = job.output()
  starts = [
    int(x)
    for x in re.findall(rf'from step (\d+) to {STEPS}', logs['process-0.log'])
  ]
  print(f'started at {starts}')
  assert starts[0] == 0 and len(starts) == 4 and starts == sorted(set(starts))
  assert 'Starting again from step' in logs['job.log']
  resumed, uninterrupted = (
    load_file(w / 'model/text_encoder/model.safetensors') for w in (cut, whole)
  )
  assert resumed and resumed.keys() == uninterrupted.keys()
  for key, value in resumed.items():
    np.testing.assert_array_equal(value, uninterrupted[key])
  # Checksums of every array, the optimizer's too, and of the data's place.
  resumed, uninterrupted = (
    {
      **json.loads((w / f'checkpoints/{STEPS}/about/metadata').read_text()),
      'config': None,
    }
    for w in (cut, whole)
  )
  assert resumed == uninterrupted
  losses = [
    [
      json.loads(x)['loss']
      for x in (w / 'metrics.jsonl').read_text().splitlines()
    ]
    for w in (cut, whole)
  ]
  assert losses[0] == losses[1] and len(losses[0]) == STEPS


@pytest.mark.slow
def test_a_mistake_ends_the_job_with_its_exit_code(cluster, tmp_path):
  output = launch(tmp_path, 'slurm')
  job = Job(cluster, output, tmp_path)
  job.progress()
  cluster('scancel', job.id)
  job.until(lambda: job.state() == 'CANCELLED')
  # Another config in the same workdir: detected by training alone.
  job = Job(cluster, launch(tmp_path, 'slurm', '--config.seed=7'), tmp_path)
  job.until(lambda: job.state() == 'FAILED')
  shown = cluster('scontrol', 'show', 'job', job.id)
  assert 'ExitCode=2:0' in shown and 'Restarts=0' in shown
  assert 'seed' in job.output()['process-0.log']
