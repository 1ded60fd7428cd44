"""Canvas, box and mask of a picture that changes an image."""

import types

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import bins, editing
from sana_jax.inference.editing import Edit

pytestmark = pytest.mark.fast


def pipe_of(sample_size=3, side=8):
  """What the sizes of a pipeline depend on; the sizes are those of 24 px."""
  spec = types.SimpleNamespace(side=side)
  return types.SimpleNamespace(
    transformer=types.SimpleNamespace(
      module=types.SimpleNamespace(sample_size=sample_size)
    ),
    autoencoder=types.SimpleNamespace(module=types.SimpleNamespace(spec=spec)),
    size_px=sample_size * side,
    size_of_ratio=lambda ratio: (24, 24),
    trained_size=lambda h, w, binning: (h, w),
  )


def call_of(image, mask=None, **how):
  size = dict(zip(('height', 'width'), image.shape))
  default = dict(
    mask_blur=0,
    padding_mask_crop=None,
    strength=0.6,
    use_resolution_binning=True,
  )
  values = {**default, **size, **how}
  return types.SimpleNamespace(image=image, mask=mask, **values)


def image_of(height, width):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def mask_of(shape, rows, columns):
  mask = np.zeros(shape[:2], bool)
  mask[rows, columns] = True
  return mask


def given(**values):
  """Arguments of a call, None where there are none."""
  return dict.fromkeys(
    ('image', 'mask', 'strength', 'mask_blur', 'padding_mask_crop'), None
  ) | dict(height=None, width=None, **values)


@pytest.mark.parametrize(
  'kind',
  [
    'bool',
    'gray',
    'column',
    'rgb',
    'fractions',
    'pillow',
    '1',
    'alpha',
    'file',
  ],
)
def test_a_mask_is_read_in_all_its_forms(kind, tmp_path):
  """What is transparent in a mask is not repainted."""
  image = image_of(6, 8)
  mask = mask_of(image.shape, slice(1, 3), slice(2, 7))
  gray = mask * np.uint8(200) + np.uint8(20)
  clear = np.stack([gray * 0 + np.uint8(255)] * 3 + [mask * np.uint8(255)], -1)
  Image.fromarray(gray).save(tmp_path / 'mask.png')
  forms = {
    'bool': mask,
    'gray': gray,
    'column': gray[..., None],
    'rgb': np.stack([gray] * 3, -1),
    'fractions': gray / 255,
    'pillow': Image.fromarray(gray),
    '1': Image.fromarray(mask),
    'alpha': Image.fromarray(clear),
    'file': tmp_path / 'mask.png',
  }
  found = editing.opened(given(image=image, mask=forms[kind]))
  np.testing.assert_array_equal(found['mask'], mask)
  np.testing.assert_array_equal(found['image'], image)


@pytest.mark.parametrize(
  'values, key',
  [
    (dict(mask=np.ones((4, 4), bool)), 'mask'),
    (dict(strength=0.5), 'strength'),
    (dict(image=image_of(4, 4), mask_blur=2), 'mask_blur'),
    (dict(image=image_of(4, 4), padding_mask_crop=2), 'padding_mask_crop'),
    (dict(image=image_of(4, 4), mask=np.ones((4, 5), bool)), 'mask'),
    (dict(image=image_of(4, 4), mask=5), 'mask'),
    (dict(image=image_of(4, 4), mask='absent.png'), 'mask'),
    (dict(image=image_of(4, 4), mask=np.full((4, 4), 2.0)), 'mask'),
    (dict(image=image_of(4, 4), mask=np.ones((4, 4, 2))), 'mask'),
    (dict(image='absent.png'), 'image'),
    (dict(image=np.ones((4, 4), bool)), 'image'),
  ],
  ids=lambda x: str(x)[:40],
)
def test_what_lacks_another_or_does_not_fit_is_refused(values, key):
  with pytest.raises(UserError) as refused:
    editing.opened(given(**values))
  assert refused.value.key == key


def test_the_image_decides_the_size_unless_it_is_given():
  image = image_of(60, 90)
  size = lambda **how: editing.own_size(given(image=image) | how)
  assert size() == {'height': 60, 'width': 90}
  assert size(height=30)['width'] == 45
  assert size(width=30)['height'] == 20
  assert size(height='30')['width'] == 90  # Refused later.
  assert editing.own_size(given()) == {}


def test_pixels_return_to_their_places():
  """A drawn size of another ratio: the way there, and the way of a picture.

  A smooth image survives both scalings, and a shift by a pixel would not.
  """
  y, x = np.mgrid[:70, :100]
  image = np.uint8(np.stack([2 * x, 3 * y, x + y], -1))
  for size in ((72, 104), (96, 96), (64, 128), (144, 208)):
    part = editing._placed(image, size, Image.Resampling.BICUBIC)
    assert part.shape == (*size, 3)
    back = bins.resize_and_crop(jnp.float32(part)[None], 70, 100)[0]
    inside = np.abs(np.asarray(back) - image)[3:-3, 3:-3]
    assert inside.max() < 2, size


def test_a_size_that_is_drawn_as_it_is_is_not_changed():
  image = image_of(16, 24)
  edit = editing.of_call(pipe_of(), call_of(image))
  assert edit.size == (16, 24) and editing.shown(edit) == (16, 24)
  part = editing._placed(image, (16, 24), Image.Resampling.LANCZOS)
  np.testing.assert_array_equal(part, image)


@pytest.mark.parametrize(
  'sample_size, size, made',
  [
    (3, (16, 24), (16, 24)),
    (3, (17, 24), (24, 24)),
    (3, (1, 9), (8, 16)),
    (32, (700, 1000), (832, 1216)),
    (32, (3000, 3000), (1024, 1024)),
  ],
)
def test_the_drawn_size_is_a_trained_one_or_the_next_multiple(
  sample_size, size, made
):
  edit = editing.of_call(pipe_of(sample_size), call_of(image_of(*size)))
  assert edit.size == made and editing.shown(edit) == size


def test_a_latent_is_repainted_if_the_mask_has_one_of_its_pixels():
  image = image_of(16, 24)
  mask = np.zeros((16, 24), bool)
  mask[7, 8] = mask[15, 23] = True
  edit = editing.of_call(pipe_of(), call_of(image, mask))
  found = editing.latent_mask(edit, 2, 3)
  assert found.shape == (1, 2, 3, 1)
  np.testing.assert_array_equal(
    found[0, :, :, 0], [[False, True, False], [False, False, True]]
  )


@pytest.mark.parametrize('height', [13, 16, 40])
def test_a_lone_pixel_of_a_scaled_mask_is_never_lost(height):
  for row in range(height):
    mask = np.zeros((height, 24), bool)
    mask[row, 5] = True
    some = np.float32(mask)
    edit = Edit((slice(0, height), slice(0, 24)), (16, 24), None, some)
    assert editing.latent_mask(edit, 2, 3).any()


@pytest.mark.parametrize('radius', [0, 1, 4, 9.5])
def test_the_blur_ends_within_three_radii(radius):
  mask = mask_of((99, 99), 49, 49)
  soft = editing.blurred(mask, radius)
  y, x = np.mgrid[:99, :99] - 49
  far = np.maximum(abs(y), abs(x)) > (3 * radius + 3 if radius else 0)
  assert soft[far].max() == 0
  wide = editing.blurred(mask_of((99, 99), slice(49, 99), slice(0, 99)), radius)
  line = wide[:, 49]
  assert np.all(np.diff(line) >= 0) and line[-1] == 1
  if radius:  # The edge is where it was: half-way between two pixels.
    np.testing.assert_allclose(line[48] + line[49], 1, atol=0.02)


def test_pixels_outside_of_the_mask_are_those_of_the_image():
  image = image_of(12, 20)
  mask = editing.blurred(mask_of(image.shape, slice(5, 8), slice(5, 9)), 1)
  edit = Edit((slice(0, 12), slice(0, 20)), (12, 20), image, mask)
  drawn = np.random.default_rng(1).random((3, 12, 20, 3), np.float32)
  got = np.asarray(editing.composed(edit, jnp.asarray(drawn)))
  m = mask[..., None].astype(np.float64)
  np.testing.assert_allclose(got, m * drawn + (1 - m) * image / 255, atol=1e-6)
  outside = mask == 0
  eight = np.round(got * 255).astype(np.uint8)
  np.testing.assert_array_equal(
    eight[:, outside], np.broadcast_to(image[outside], (3, outside.sum(), 3))
  )
  assert 0 < outside.mean() < 1


def test_all_values_of_8_bits_survive():
  image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
  edit = Edit((slice(0, 16), slice(0, 16)), (16, 16), image, np.zeros((16, 16)))
  got = np.asarray(editing.composed(edit, jnp.ones((1, 16, 16, 3))))
  np.testing.assert_array_equal(np.round(got[0] * 255).astype(np.uint8), image)


@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('place', [(0, 0), (20, 40), (39, 59)])
def test_the_box_of_a_crop_holds_the_mask_and_its_margin(padding, place):
  """And has the ratio at which it is drawn, here a square."""
  image = image_of(40, 60)
  rows = slice(max(0, place[0] - 2), place[0] + 1)
  columns = slice(max(0, place[1] - 9), place[1] + 1)
  mask = mask_of(image.shape, rows, columns)
  edit = editing.of_call(
    pipe_of(), call_of(image, mask, padding_mask_crop=padding)
  )
  y, x = edit.box
  assert edit.size == (24, 24)
  assert y.stop - y.start == x.stop - x.start
  assert y.start <= max(0, rows.start - padding)
  assert x.stop >= min(60, columns.stop + padding)
  assert 0 <= y.start < y.stop <= 40 and 0 <= x.start < x.stop <= 60
  outside = np.ones((40, 60), bool)
  outside[edit.box] = False
  drawn = np.zeros((1, *editing.shown(edit), 3), np.float32)
  got = np.round(np.asarray(editing.composed(edit, jnp.asarray(drawn))) * 255)
  np.testing.assert_array_equal(got[0][outside], image[outside])
  assert got[0][mask].max() == 0


def test_an_empty_mask_keeps_the_image_with_a_warning(caplog):
  image = image_of(16, 24)
  mask = np.zeros((16, 24), bool)
  for crop in (None, 4):
    caplog.clear()
    edit = editing.of_call(
      pipe_of(), call_of(image, mask, padding_mask_crop=crop)
    )
    assert edit.strength == 0 and editing.shown(edit) == (16, 24)
    assert len(caplog.records) == 1
