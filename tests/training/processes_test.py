"""Two processes are one run: they compute, save, resume and stop together."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np

import sana_jax

TOY = pathlib.Path(__file__).with_name('toy.py')
MESH = {'data': 2, 'fsdp': 2}


def start(workdir, num_steps):
  """Two processes of two devices each."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  root = pathlib.Path(sana_jax.__file__).parents[1]
  return [
      subprocess.Popen(
          [sys.executable, '-W', 'error', TOY, workdir,
           f'num_steps={num_steps}', f'mesh={json.dumps(MESH)}',
           f'process={json.dumps([address, 2, i])}'],
          env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(root)},
          stderr=subprocess.PIPE, text=True)
      for i in range(2)]


def finish(processes):
  logs = [p.communicate(timeout=120)[1] for p in processes]
  assert [p.returncode for p in processes] == [0, 0], logs
  return logs


def test_two_processes_compute_what_one_computes(toy, tmp_path):
  two, one = tmp_path / 'two', tmp_path / 'one'
  processes = start(two, 100_000)
  while not (two / 'checkpoints/4').exists():
    assert all(p.poll() is None for p in processes)
    time.sleep(.01)
  processes[1].send_signal(signal.SIGTERM)  # One host is told to go.
  logs = finish(processes)
  assert all('Stopped by SIGTERM' in log for log in logs)
  last = max(int(p.name) for p in (two / 'checkpoints').iterdir())

  elsewhere = shutil.copytree(two, tmp_path / 'elsewhere')
  logs = finish(start(two, last + 3))
  assert all(f'toy: from step {last} to {last + 3}' in log for log in logs)
  toy.run(one, num_steps=last + 3, mesh=MESH, devices=jax.devices()[:4])
  # What two processes saved goes on in one, on other devices.
  toy.run(elsewhere, num_steps=last + 3, mesh={'fsdp': 8})
  theirs = np.load(one / 'model/model.npz')
  for workdir in two, elsewhere:
    ours = np.load(workdir / 'model/model.npz')
    assert ours.files and ours.files == theirs.files
    for name in ours.files:
      np.testing.assert_allclose(
          ours[name], theirs[name], rtol=1e-3, atol=1e-4)
