"""Short runs of a ControlNet of a tiny random base, on pictures from files.

As a script: WORKDIR MODEL PICTURES, a run that saves every second step.
"""

import pathlib
import shutil
import sys

import jax
import numpy as np
from PIL import Image

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.models import abstract
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import init_from
from sana_jax.training import loop
from sana_jax.weights import folder as folders

TINY = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
SIZE = 32  # Pixels; 8 x 8 latents.


def base_in(folder, norm):
  """Writes the folder of a random base, with or without norms."""
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


def pictures_in(folder):
  """Writes six images of one value each; its control image adds to 255."""
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


if __name__ == '__main__':
  folder, *given = map(pathlib.Path, sys.argv[1:])
  config = config_of(*given, 'cached')
  config.update(
    num_steps=12,
    checkpoint_every_steps=2,
    log_every_steps=1,
    ema_decay=0.9,
  )
  run(config, folder)
