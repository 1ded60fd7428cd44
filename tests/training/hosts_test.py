"""The shipped models on two hosts: pictures, and a model that is whole."""

import os
import socket
import subprocess
import sys

import pytest

from sana_jax import interpreter
from sana_jax.weights import folder

SMALL = (
  '--config.num_steps=2',
  '--config.data.examples=300',
  '--config.batch_size=8',
  '--config.pictures_every_steps=1',
  '--config.optimizer.warmup_steps=0',
)
READY = ('--config.autoencoder=shapes', '--config.text_encoder=shapes')


@pytest.mark.slow
@pytest.mark.parametrize(
  'config, more, part',
  [('shapes_dc_ae:quick', (), 'vae'), ('shapes', READY, 'transformer')],
)
def test_two_hosts_draw_pictures_and_export_a_model(
  tmp_path, config, more, part
):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  processes = [
    subprocess.Popen(
      [
        *interpreter.module('sana_jax.launch.cli', sys.executable),
        'train',
        '--config',
        config,
        '--workdir',
        tmp_path,
        '--layout',
        'fsdp',
        '--cpu-devices',
        '2',
        '--distributed',
        f'{address},2,{i}',
        *SMALL,
        *more,
      ],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  logs = [p.communicate(timeout=900)[1] for p in processes]
  assert [p.returncode for p in processes] == [0, 0], logs
  # 24 and 12 pictures, which four devices share.
  assert len(list((tmp_path / 'pictures').glob('*.png'))) == 2
  assert folder.load(tmp_path / 'model', part).variables['params']


@pytest.mark.long
def test_one_host_without_the_data_ends_both_with_two(tmp_path):
  (tmp_path / 'data').mkdir()
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  processes = [
    subprocess.Popen(
      [
        *interpreter.module('sana_jax.launch.cli', sys.executable),
        'train',
        '--config=shapes_text_encoder',
        f'--workdir={tmp_path / "run"}',
        f'--distributed={address},2,{i}',
        '--cpu-devices=1',
        '--config.data.source=folder',
        f'--config.data.path={tmp_path / data}',
      ],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
      stderr=subprocess.PIPE,
      text=True,
    )
    for i, data in enumerate(('data', 'other'))
  ]
  logs = [p.communicate(timeout=300)[1] for p in processes]
  assert [p.returncode for p in processes] == [2, 2], logs
  line = f'{socket.gethostname()}: config.data.path={tmp_path / "other"}: '
  assert line in logs[1] and line not in logs[0]
  assert 'process 1' in logs[0] and not (tmp_path / 'run').exists()
