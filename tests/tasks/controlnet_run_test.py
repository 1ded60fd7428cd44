"""Runs of a ControlNet: control images from files, and resuming."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from controlnet_toy import base_in, config_of, pictures_in, run, SIZE
import jax
import numpy as np
from PIL import Image
import pytest

import sana_jax
from sana_jax.inference.pipeline import Pipeline
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tree import leaves
from sana_jax.weights import controlnet, exchange, weight_files
from sana_jax.weights import folder as folders

TOY = pathlib.Path(__file__).with_name('controlnet_toy.py')
STEM = 'diffusion_pytorch_model'

pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A folder with a random base that a ControlNet fits."""
  return base_in(tmp_path_factory.mktemp('base'), norm=False)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """Pictures and their control images."""
  return pictures_in(tmp_path_factory.mktemp('pictures'))


@pytest.mark.parametrize('latents', ['cached', 'online'])
def test_a_stopped_run_on_files_resumes_to_the_same_bits(
  model, pictures, latents, tmp_path
):
  config = config_of(model, pictures, latents)
  task, whole = run(config, tmp_path / 'whole')
  config.num_steps = 2
  run(config, tmp_path / 'cut')
  config.num_steps = 3
  _, cut = run(config, tmp_path / 'cut')
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((whole, cut)))
  first = task.start.load(str(model), make_mesh({}, jax.devices()[:1]))
  moved = jax.tree.map(
    lambda x, y: bool(np.any(x != y)), first, dict(whole.params)
  )
  assert any(jax.tree.leaves(moved))
  assert (tmp_path / 'whole/model/controlnet/config.json').is_file()
  batch = next(task.data.batches(seed=0, batch_size=4, rows=range(4)))
  if latents == 'cached':
    assert batch['control'].shape == batch['latents'].shape
  else:  # Each image has the control image of its name.
    both = batch['control'].astype(int) + batch['image']
    np.testing.assert_array_equal(both, np.full_like(both, 255))


def test_a_net_of_a_model_with_norms_trains_and_draws(pictures, tmp_path, cli):
  base = base_in(tmp_path / 'base', norm=True)
  config = config_of(base, pictures, 'cached')
  config.num_steps = 1
  task, end = run(config, tmp_path / 'run')
  first = task.start.load(str(base), make_mesh({}, jax.devices()[:1]))
  same = jax.tree.map(np.array_equal, first, dict(end.params))
  moved = {name for name, same in leaves(same).items() if not same}
  assert moved == {'blocks/output/kernel', 'blocks/output/bias'}
  written = tmp_path / 'run/model'
  net = folders.load(written, 'controlnet')
  assert net.module.qk_norm and net.module.cross_norm
  np.testing.assert_array_equal(
    net.variables['params']['blocks']['self_attention']['query_norm']['scale'],
    first['blocks']['self_attention']['query_norm']['scale'],
  )
  index = json.loads((written / 'model_index.json').read_text())
  assert index['controlnet'][0] != 'diffusers'
  control = Image.new('RGB', (SIZE, SIZE), (200, 0, 0))
  pipe = Pipeline.from_pretrained(written)
  result = pipe(
    'a', control_image=control, height=SIZE, width=SIZE, steps=1, seed=0
  )
  assert result.images[0].size == (SIZE, SIZE)
  for fmt, to in (('diffusers', 'copy'), ('official', 'official.pth')):
    code, out, err = cli(
      *('convert', '--from', written, '--to', tmp_path / to, '--format', fmt)
    )
    assert code == 0, err
    assert (controlnet.NORMED_NOTE in out) == (fmt == 'diffusers')
  configs = {
    part: folders.read_json(written / part / 'config.json')
    for part in ('transformer', 'controlnet')
  }
  again, want = (
    exchange.open_source(str(name), **more).parts['controlnet'].tensors
    for name, more in (
      (tmp_path / 'official.pth', {'configs': configs}),
      (written, {}),
    )
  )
  for name in want:
    np.testing.assert_array_equal(again[name].read(), want[name].read())


def start(workdir, model, pictures):
  root = pathlib.Path(sana_jax.__file__).parents[1]
  return subprocess.Popen(
    [sys.executable, TOY, workdir, model, pictures],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(root)},
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  log = process.communicate(timeout=300)[1]
  assert process.returncode == 0, log
  return log


def logged(workdir):
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [
    json.loads(line)['step'] for line in text.splitlines()[: text.count('\n')]
  ]


def kill_after(step, process, workdir):
  while process.poll() is None and max(logged(workdir), default=0) < step:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  log = process.communicate()[1]
  assert process.returncode == -signal.SIGKILL, log


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_same_bits(model, pictures, tmp_path):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  finish(start(whole, model, pictures))
  for step in (3, 8):  # Steps 2 and 6, or 8, are saved.
    kill_after(step, start(cut, model, pictures), cut)
  log = finish(start(cut, model, pictures))
  assert 'from step 0' not in log
  about = [
    json.loads((w / 'checkpoints/12/about/metadata').read_text())
    for w in (whole, cut)
  ]
  assert about[0] == about[1]  # Has the checksum of every array.
  assert any('blocks.output' in name for name in about[0]['leaves'])
  assert logged(cut) == [*range(1, 13)]
  nets = [weight_files.read(w / 'model/controlnet', STEM) for w in (whole, cut)]
  assert nets[0].keys() == nets[1].keys()
  for name, x in nets[0].items():
    assert x.read().tobytes() == nets[1][name].read().tobytes()
