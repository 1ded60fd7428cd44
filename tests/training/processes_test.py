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
import pytest

import sana_jax

TOY = pathlib.Path(__file__).with_name('toy.py')
MESH = {'data': 2, 'fsdp': 2}


def start(workdir, num_steps, caches=('', ''), **settings):
  """Two processes of two devices each, and with a cache each."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  root = pathlib.Path(sana_jax.__file__).parents[1]
  return [
    subprocess.Popen(
      [
        sys.executable,
        '-W',
        'error',
        TOY,
        workdir,
        f'num_steps={num_steps}',
        f'mesh={json.dumps(MESH)}',
        f'process={json.dumps([address, 2, i])}',
        f'checkpoint_cache={json.dumps(str(caches[i]))}',
        *(f'{key}={json.dumps(x)}' for key, x in settings.items()),
      ],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(root)},
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]


def finish(processes):
  logs = [p.communicate(timeout=120)[1] for p in processes]
  assert [p.returncode for p in processes] == [0, 0], logs
  return logs


def weights(workdir):
  with np.load(workdir / 'model/model.npz') as model:
    return dict(model)


@pytest.mark.long
def test_two_processes_compute_what_one_computes(toy, tmp_path):
  two, one = tmp_path / 'two', tmp_path / 'one'
  processes = start(two, 100_000, log_every_steps=1)
  while not (two / 'checkpoints/4').exists():
    assert all(p.poll() is None for p in processes)
    time.sleep(0.01)
  processes[1].send_signal(signal.SIGTERM)  # One host is stopped.
  logs = finish(processes)
  assert all('Stopped by SIGTERM' in log for log in logs)
  last = max(int(p.name) for p in (two / 'checkpoints').iterdir())

  elsewhere = shutil.copytree(two, tmp_path / 'elsewhere')
  logs = finish(start(two, last + 3, log_every_steps=1))
  assert all(f'toy: from step {last} to {last + 3}' in log for log in logs)
  toy.run(
    one,
    num_steps=last + 3,
    mesh=MESH,
    devices=jax.devices()[:4],
    log_every_steps=1,
  )
  # The checkpoint of two processes is resumed by one, on other devices.
  toy.run(elsewhere, num_steps=last + 3, mesh={'fsdp': 8})
  losses = lambda workdir: [
    json.loads(line)['loss']
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  np.testing.assert_allclose(losses(two)[:20], losses(one)[:20], rtol=1e-6)
  theirs = weights(one)
  for workdir in two, elsewhere:
    ours = weights(workdir)
    assert ours and ours.keys() == theirs.keys()
    for name in ours:
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_is_used_by_none(tmp_path):
  # Wide enough for files of each process: orbax writes small arrays inline.
  settings = dict(mesh={'fsdp': 4}, width=8192, checkpoint_every_steps=2)
  finish(start(tmp_path, 4, **settings))
  path = max(
    (tmp_path / 'checkpoints/4/state/ocdbt.process_1').rglob('*'),
    key=lambda path: path.stat().st_size,
  )
  assert path.stat().st_size > 2**17
  os.truncate(path, path.stat().st_size // 2)
  logs = finish(start(tmp_path, 6, **settings))
  assert all('toy: from step 2 to 6' in log for log in logs)
  assert (tmp_path / 'checkpoints/damaged_4').is_dir()


@pytest.mark.slow
def test_each_host_resumes_from_its_own_cache_or_none_does(tmp_path):
  run, caches = tmp_path / 'run', [tmp_path / 'host 0', tmp_path / 'host 1']
  settings = dict(
    caches=caches, checkpoint_every_steps=10**6, log_every_steps=1
  )

  def cached(host):
    return {int(p.stem): p for p in caches[host].rglob('*.safetensors')}

  def killed(after):
    processes = start(run, 10**6, **settings)
    while min(max(cached(host), default=0) for host in (0, 1)) <= after:
      assert all(p.poll() is None for p in processes)
      time.sleep(0.002)
    for p in processes:
      p.kill()
    logs = [p.communicate()[1] for p in processes]
    return max({*cached(0)} & {*cached(1)}), logs

  first, _ = killed(after=0)
  # A host holds its shards and no others: half of the split arrays.
  assert all(
    f'/process_{host}_of_2/' in str(path)
    for host in (0, 1)
    for path in cached(host).values()
  )
  second, logs = killed(after=first + 2)
  assert all(f'Step {first} is restored from the cache' in log for log in logs)
  for path in cached(1).values():  # One host has lost its disk.
    path.unlink()
  logs = finish(start(run, 6, **settings))
  assert all('no step that all processes have' in log for log in logs)
  assert all('from step 0 to 6' in log for log in logs)
  whole = tmp_path / 'whole'
  finish(start(whole, 6, **{**settings, 'caches': ('', '')}))
  about = [
    (w / 'checkpoints/6/about/metadata').read_text() for w in (run, whole)
  ]
  assert json.loads(about[0])['state'] == json.loads(about[1])['state']
