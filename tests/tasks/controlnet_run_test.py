"""Runs of a ControlNet: control images from files, and resuming."""

import json
import pathlib
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.inference.pipeline import Pipeline
from sana_jax.models import abstract
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import init_from
from sana_jax.training import loop
from sana_jax.tree import leaves
from sana_jax.weights import controlnet, exchange
from sana_jax.weights import folder as folders

TINY = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
SIZE = 32  # Pixels; 8 x 8 latents.

pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A folder with a random base that a ControlNet fits."""
  return base_in(tmp_path_factory.mktemp('base'), norm=False)


def base_in(folder, norm):
  for part in ('vae', 'text_encoder', 'tokenizer', 'scheduler'):
    shutil.copytree(TINY / part, folder / part)
  shutil.copy(TINY / 'model_index.json', folder)
  module = folders.describe(TINY, 'transformer')
  module = module.clone(qk_norm=norm, cross_norm=norm, guidance_embeds=False)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: np.float32(0.2 * rng.normal(size=x.shape)),
    abstract.transformer(module),
  )
  folders.write(folder, 'transformer', module, {'params': params})
  return folder


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """Six images of one value each; that of its control image adds to 255."""
  folder = tmp_path_factory.mktemp('pictures')
  for part in ('images', 'control'):
    (folder / part).mkdir()
  for i in range(6):
    for part, value in (('images', 40 * i), ('control', 255 - 40 * i)):
      path = folder / part / f'{i}.png'
      Image.new('RGB', (SIZE, SIZE), (value,) * 3).save(path)
    (folder / 'images' / f'{i}.txt').write_text(f'number {i}')
  return folder


def config_of(model, pictures, latents):
  config = base.train('controlnet')
  config.init_from = str(model)
  config.autoencoder = config.text_encoder = str(TINY)
  config.data.update(
    source='folder',
    path=str(pictures / 'images'),
    size_px=SIZE,
    threads=0,
    index_path='',
  )
  config.inputs.update(latents=latents, text='cached', text_length=16)
  config.controlnet.update(
    depth=1, annotator='files', path=str(pictures / 'control'), latents=latents
  )
  config.update(
    num_steps=3, batch_size=4, pictures_every_steps=0, ema_decay=0.0
  )
  config.model.sample_size = SIZE // 4  # The autoencoder compresses by 4.
  config.optimizer.update(name='adamw', learning_rate=1e-2)
  init_from.set_model(config)
  base.check(config)
  return config


def run(config, workdir):
  mesh = make_mesh(config.mesh, jax.devices()[:1])
  task = tasks.open_task(config, workdir, mesh)
  return task, loop.train(config, task, workdir, mesh)


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
