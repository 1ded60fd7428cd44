"""Small folders of images, and configs for them."""

import pathlib
import sys

import numpy as np
from PIL import Image
import pytest

from sana_jax import config as base
from sana_jax.tasks.sana import caching

# Tests import the modules beside them by name: they are no package.
sys.path.append(str(pathlib.Path(__file__).parent))

MODELS = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
SIZE = 16  # Pixels; compression 4 leaves 4 x 4 latents.
SIZES = [(16, 16), (16, 32), (32, 16), (17, 16)]  # As stored.


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
  """30 images of four sizes with two captions each, one of them damaged."""
  path, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
  for i in range(30):
    height, width = SIZES[i % len(SIZES)]
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path / f'{i:02d}.png')
    (path / f'{i:02d}.json').write_text(
      f'{{"captions": {{"prompt": "number {i}", "long": "It is {i} long"}}}}'
    )
  # Its header can be read.
  (path / '08.png').write_bytes((path / '08.png').read_bytes()[:200])
  return path


@pytest.fixture(scope='session')
def small():
  """Makes configs of the smallest transformer for the golden encoders."""
  return _small


@pytest.fixture(scope='session')
def whole(small, folder, tmp_path_factory):
  """The folder of a cache with both; tests leave it as it is."""
  path = tmp_path_factory.mktemp('whole')
  caching.make(small(folder), path, shard_records=8, batch_size=8)
  return path


def _small(folder, **changes):
  config = base.train('sana')
  config.model.update(
    width=32, depth=1, cross_heads=2, sample_size=4, text_norm_scale=1.0
  )
  config.autoencoder = config.text_encoder = str(MODELS)
  config.data.update(
    source='folder',
    path=str(folder),
    size_px=SIZE,
    caption_rule='uniform',
    threads=0,
    index_path='',
  )
  config.inputs.update(aspect_ratios=True, text_length=16)
  config.batch_size = 8
  config.update_from_flattened_dict(changes)
  base.check(config)
  return config
