"""Two processes with twenty faults give the bits of an undisturbed run.

  launch/test -m slow -k twenty

A quarter of a minute each: a process or both are killed, one gets SIGTERM, the
disk is full, the newest checkpoint is truncated (and a host's cache, if any, is
truncated or lost). A shard of the data is damaged throughout. The time limits
allow for busy machines.
"""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import sana_jax

TOY = pathlib.Path(__file__).with_name('toy.py')
STEPS, EVERY = 300, 6
SETTINGS = {
  'num_steps': STEPS,
  'checkpoint_every_steps': EVERY,
  'log_every_steps': 1,
  'keep_checkpoints': 3,
  'pictures_every_steps': 0,
  'mesh': {'data': 2, 'fsdp': 2},
}
ROWS, SHARDS = 256, 8


class Run:
  """Two processes of two devices each, on one workdir."""

  def __init__(self, workdir, shards, caches=None, file_limit='unlimited'):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      address = f'localhost:{s.getsockname()[1]}'
    self.workdir, self.began, self.caches = workdir, newest(workdir), caches
    self.processes, self.logs = [], []
    for i in range(2):
      settings = {
        **SETTINGS,
        'shards': str(shards),
        'process': [address, 2, i],
        'checkpoint_cache': str(caches[i]) if caches else '',
      }
      self.processes.append(
        subprocess.Popen(
          [
            'bash',
            '-c',
            f'ulimit -f {file_limit}; exec "$0" "$@"',
            sys.executable,
            TOY,
            workdir,
            *(f'{key}={json.dumps(x)}' for key, x in settings.items()),
          ],
          env={
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            'PYTHONDONTWRITEBYTECODE': '1',  # Half a module, on a full disk.
            'PYTHONPATH': str(pathlib.Path(sana_jax.__file__).parents[1]),
          },
          stderr=subprocess.PIPE,
          text=True,
        )
      )

  def alive(self):
    return all(p.poll() is None for p in self.processes)

  def progress(self, steps):
    """Waits until some checkpoints were saved, or the run has ended."""
    deadline = time.monotonic() + 900
    while self.alive() and newest(self.workdir) < self.began + steps:
      assert time.monotonic() < deadline
      time.sleep(0.002)

  def end(self, patience=0.0):
    """Kills what is left after so many seconds; returns (codes, logs)."""
    deadline = time.monotonic() + patience
    while any(p.poll() is None for p in self.processes) and (
      time.monotonic() < deadline
    ):
      time.sleep(0.01)
    for p in self.processes:
      p.kill()
    if not self.logs:
      self.logs = [p.communicate()[1] for p in self.processes]
    return [p.returncode for p in self.processes], self.logs


def newest(workdir):
  folder = workdir / 'checkpoints'
  return max(
    (int(p.name) for p in folder.glob('*') if p.name.isdigit()), default=0
  )


def kill_one(run, chance):
  run.progress(EVERY)
  time.sleep(chance.uniform(0, 0.1))
  chance.choice(run.processes).kill()
  run.end()  # As a scheduler does with the rest of the job.


def kill_both(run, chance):
  run.progress(EVERY)
  time.sleep(chance.uniform(0, 0.1))
  run.end()


def stop(run, chance):
  run.progress(EVERY)
  chance.choice(run.processes).send_signal(signal.SIGTERM)
  codes, logs = run.end(patience=600)
  assert codes == [0, 0], logs
  assert any('Stopped by SIGTERM' in log or f'{STEPS}.' in log for log in logs)


def cut_short(run, chance):
  kill_both(run, chance)
  if not (step := newest(run.workdir)):
    return
  halve(
    max(
      (
        p
        for p in (run.workdir / f'checkpoints/{step}').rglob('*')
        if p.is_file()
      ),
      key=lambda p: p.stat().st_size,
    )
  )
  for cached in (
    chance.choice(run.caches).rglob('*.safetensors') if run.caches else ()
  ):
    halve(cached) if chance.random() < 0.5 else cached.unlink()


def halve(path):
  with path.open('r+b') as file:
    file.truncate(path.stat().st_size // 2)


def full_disk(run, chance):
  del chance
  codes, logs = run.end(patience=600)  # It was started with no room for files.
  assert any(codes) and any('failed' in log for log in logs), (codes, logs)


FAULTS = [kill_one, kill_both, stop, cut_short, full_disk]


@pytest.fixture
def shards(tmp_path):
  """The data set in files, one of them damaged."""
  folder = tmp_path / 'shards'
  folder.mkdir()
  rows = np.random.default_rng(0).normal(size=(ROWS, 16)).astype(np.float32)
  for i, part in enumerate(np.split(rows, SHARDS)):
    np.save(folder / f'{i}.npy', part)
  damaged = folder / '3.npy'
  damaged.write_bytes(damaged.read_bytes()[:100])
  return folder


def lines(workdir):
  """Rows and metrics of each step in the log."""
  found = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  return [
    {key: line[key] for key in ('step', 'loss', 'seen', 'seen_squares')}
    for line in found
  ]


@pytest.mark.slow
@pytest.mark.parametrize('cached', [False, True], ids=['plain', 'cached'])
def test_twenty_faults_change_no_bit_and_no_example(tmp_path, shards, cached):
  seed = int.from_bytes(os.urandom(4))
  print(f'seed {seed}')
  chance = random.Random(seed)
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  codes, logs = Run(whole, shards).end(patience=900)
  assert codes == [0, 0], logs

  caches = [tmp_path / 'host 0', tmp_path / 'host 1'] if cached else None
  faults, from_cache = FAULTS * 4, 0
  chance.shuffle(faults)
  for number, fault in enumerate(faults):
    at = newest(cut)
    run = Run(cut, shards, caches, 4 if fault is full_disk else 'unlimited')
    fault(run, chance)
    from_cache += any('is restored from the cache' in log for log in run.logs)
    print(f'{number}: {fault.__name__} from step {at} to {newest(cut)}')
  codes, logs = Run(cut, shards, caches).end(patience=900)
  assert codes == [0, 0], logs
  assert from_cache >= 5 if cached else not from_cache

  assert [line['step'] for line in lines(cut)] == list(range(1, STEPS + 1))
  assert lines(cut) == lines(whole)
  with (
    np.load(cut / 'model/model.npz') as ours,
    np.load(whole / 'model/model.npz') as theirs,
  ):
    assert ours.files and ours.files == theirs.files
    for name in ours.files:
      np.testing.assert_array_equal(ours[name], theirs[name])
  # Checksums of every array, the optimizer's too, and of the data's place.
  about = [
    (w / f'checkpoints/{STEPS}/about/metadata').read_text()
    for w in (cut, whole)
  ]
  ours, theirs = ({**json.loads(x), 'config': None} for x in about)
  assert ours == theirs
