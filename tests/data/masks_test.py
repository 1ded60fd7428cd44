"""Masks beside pictures and in alpha channels, as weights of latents."""

import numpy as np
from PIL import Image
import pytest

from sana_jax.data import masks, sources
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


def put(path, pixels, mode=None):
  Image.fromarray(np.asarray(pixels, np.uint8), mode).save(path)
  path.with_name(path.name.partition('.')[0] + '.txt').write_text('a cat')


def opened(path, kind, size=None):
  return sources.open_source(
    'folder', path=path, size=size, cache='', masks=kind
  )


def test_a_file_beside_the_picture_weights_its_pixels(tmp_path):
  mask = np.zeros((4, 8), np.uint8)
  mask[:, 2:] = 255
  mask[0, 7] = 128
  put(tmp_path / 'a.jpg', np.zeros((4, 8, 3)))
  put(tmp_path / 'a.mask.png', mask)
  put(tmp_path / 'b.png', np.zeros((4, 8, 3)))
  source = opened(tmp_path, 'files')
  assert [source.name(i) for i in range(len(source))] == ['a.jpg', 'b.png']
  np.testing.assert_array_equal(source[0]['weights'], mask)
  assert (source[1]['weights'] == 255).all()
  assert opened(tmp_path, 'files', 4)[0]['weights'].shape == (4, 4)


def test_masks_that_are_not_requested_are_no_pictures(tmp_path):
  put(tmp_path / 'a.png', np.zeros((4, 8, 3)))
  put(tmp_path / 'a.mask.png', np.zeros((4, 8)))
  source = opened(tmp_path, '')
  assert len(source) == 1 and 'weights' not in source[0]
  assert list(source.source.remarks.first.values()) == ['a.mask.png']


def test_the_alpha_channel_weights_its_pixels(tmp_path):
  pixels = np.zeros((2, 3, 4), np.uint8)
  pixels[..., 3] = [[0, 100, 255], [1, 2, 3]]
  put(tmp_path / 'a.png', pixels)
  put(tmp_path / 'b.png', np.zeros((2, 3, 3)))
  source = opened(tmp_path, 'alpha')
  np.testing.assert_array_equal(source[0]['weights'], pixels[..., 3])
  assert (source[1]['weights'] == 255).all()


def test_a_mask_of_another_size_is_refused(tmp_path):
  put(tmp_path / 'a.png', np.zeros((4, 8, 3)))
  put(tmp_path / 'a.mask.png', np.zeros((8, 4)))
  with pytest.raises(UserError) as error:
    opened(tmp_path, 'files')[0]
  assert error.value.key == 'data.masks'
  assert (error.value.value, error.value.allowed) == ((4, 8), (8, 4))


def test_a_black_mask_is_reported_once(tmp_path):
  put(tmp_path / 'a.png', np.zeros((4, 8, 3)))
  put(tmp_path / 'a.mask.png', np.zeros((4, 8)))
  source = opened(tmp_path, 'files')
  for _ in range(2):
    assert not source[0]['weights'].any()
  assert list(source.source.remarks.first.values()) == ['a.mask.png']


def test_a_latent_has_the_mean_weight_of_its_pixels():
  weights = np.zeros((4, 6), np.uint8)
  weights[:2, :2] = 255
  weights[2:, 4] = 255
  np.testing.assert_allclose(
    masks.cells(weights, (4, 6), 2), [[1, 0, 0], [0, 0, 0.5]]
  )


def test_weights_are_cropped_as_the_picture():
  weights = np.zeros((4, 12), np.uint8)
  weights[:, 4:8] = 255  # Exactly the central square.
  assert (masks.cells(weights, (4, 4), 2) == 1).all()
