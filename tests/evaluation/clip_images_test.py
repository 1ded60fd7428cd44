"""Preprocessing of CLIP's images equals that of transformers."""

import json

import numpy as np
from PIL import Image
import pytest
from transformers.models.clip.image_processing_pil_clip import (
  CLIPImageProcessorPil,
)

from sana_jax.errors import UserError
from sana_jax.evaluation import clip_images

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'shape', [(64, 64), (28, 28), (40, 61), (61, 40), (9, 200), (33, 97)]
)
@pytest.mark.parametrize('side', [28, 33])
def test_pixels_are_those_of_transformers(shape, side, tmp_path):
  images = np.random.default_rng().integers(0, 256, (2, *shape, 3), np.uint8)
  theirs = CLIPImageProcessorPil(
    size={'shortest_edge': side},
    crop_size={'height': 28, 'width': 28},
    image_mean=[0.1, 0.5, 0.3],
  )
  theirs.save_pretrained(tmp_path)
  want = theirs(
    images=[Image.fromarray(x) for x in images], return_tensors='np'
  )['pixel_values']
  got = clip_images.read(tmp_path, 28)(images)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=2e-6)


def test_openais_statistics_are_the_default(tmp_path):
  """The mean becomes 0, and a standard deviation above it 1."""
  mean = np.array([0.48145466, 0.4578275, 0.40821073])
  std = np.array([0.26862954, 0.26130258, 0.27577711])
  read = clip_images.read(tmp_path, 224)
  for value, want in ((mean, 0), (mean + std, 1)):
    image = np.broadcast_to(np.round(255 * value), (1, 8, 16, 3))
    got = read(image.astype(np.uint8))
    assert got.shape == (1, 224, 224, 3)
    np.testing.assert_allclose(got, want, atol=0.5 / 255 / std.min())


@pytest.mark.parametrize(
  'content',
  [
    {'size': 224, 'crop_size': 224},
    {
      'size': {'shortest_edge': 224},
      'crop_size': {'height': 224, 'width': 224},
    },
    {'processor_class': 'CLIPProcessor', 'image_processor': {'size': 224}},
  ],
)
def test_files_of_each_version_are_read(content, tmp_path):
  (tmp_path / 'processor_config.json').write_text(json.dumps(content))
  found = clip_images.read(tmp_path, 224)
  assert found == clip_images.Preprocessing(224, 224)


@pytest.mark.parametrize(
  'key, content',
  [
    ('crop_size', {'crop_size': 336}),
    ('crop_size', {'size': {'height': 224, 'width': 224}}),
    ('crop_size', {'size': 100}),
    ('size', {'size': 2**40}),
    ('size', {'size': {'longest_edge': 224}}),
    ('size', {'size': {'shortest_edge': True}}),
    ('resample', {'resample': 2}),
    ('do_center_crop', {'do_center_crop': False}),
    ('image_std', {'image_std': [0, 1, 1]}),
    ('image_mean', {'image_mean': [0.5]}),
    ('image_processor', {'image_processor': []}),
  ],
)
def test_other_images_are_refused(key, content, tmp_path):
  path = tmp_path / 'preprocessor_config.json'
  path.write_text(json.dumps(content))
  with pytest.raises(UserError) as error:
    clip_images.read(tmp_path, 224)
  assert error.value.key == key
