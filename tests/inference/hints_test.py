"""Control images of a call: options, steps, sizes, and refused ones."""

import types

import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import hints
from sana_jax.inference.hints import Options

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'start, end, steps, used',
  [
    (0.0, 1.0, 4, (0, 3)),
    (0.0, 0.5, 4, (0, 1)),
    (0.5, 1.0, 4, (2, 3)),
    (0.3, 0.8, 10, (3, 7)),
    (0.1, 0.2, 4, None),
  ],
)
def test_steps_are_those_of_diffusers(start, end, steps, used):
  # ControlNet pipelines there: keep = 1 - (i / n < start or (i + 1) / n > end).
  keep = [
    i for i in range(steps) if not (i / steps < start or (i + 1) / steps > end)
  ]
  assert (keep or None) == (used and list(range(used[0], used[1] + 1)))
  assert Options(start=start, end=end).steps(steps) == used


def test_an_option_is_for_all_nets_or_for_each():
  got = hints.options_of({'scale': [0.5, 2], 'end': 0.8}, 2)
  assert got == [Options(0.5, end=0.8), Options(2, end=0.8)]
  assert hints.options_of(None, 2) == [Options(), Options()]


@pytest.mark.parametrize(
  'given, key',
  [
    ({'weight': 1}, 'control'),
    ({'scale': -1}, 'scale'),
    ({'scale': [1, 2, 3]}, 'control scale'),
    ({'start': 0.5, 'end': 0.5}, 'start'),
    ({'end': 2}, 'end'),
    ({'annotator': 'sobel'}, 'annotator'),
  ],
)
def test_invalid_options_are_refused(given, key):
  with pytest.raises(UserError) as error:
    hints.options_of(given, 2)
  assert error.value.key == key


def image(width, height):
  rng = np.random.default_rng(0)
  return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def test_an_image_is_resized_by_lanczos_without_cropping():
  control = image(50, 100)
  got = hints.pixels(control, (128, 64), (128, 64))
  want = control.resize((64, 128), Image.Resampling.LANCZOS)
  np.testing.assert_array_equal(got, np.asarray(want))
  assert hints.pixels(image(64, 128), (128, 64), (128, 64)).shape == (
    128,
    64,
    3,
  )


def test_an_image_of_another_ratio_is_refused():
  with pytest.raises(UserError) as error:
    hints.pixels(image(100, 50), (64, 64), (64, 64))
  assert error.value.key == 'control_image'
  assert error.value.value == (50, 100)


@pytest.mark.parametrize(
  'nets, control_image, options, key',
  [
    (1, None, None, 'control_image'),
    (0, 'x.png', None, 'control_image'),
    (0, None, {'scale': 1}, 'control'),
  ],
)
def test_control_without_a_net_or_a_net_without_control_is_refused(
  nets, control_image, options, key
):
  pipe = types.SimpleNamespace(controlnets=(None,) * nets)
  with pytest.raises(UserError) as error:
    hints.check_given(pipe, control_image, options)
  assert error.value.key == key


def test_a_damaged_control_image_is_named(tmp_path):
  file = tmp_path / 'x.png'
  file.write_bytes(b'no image')
  with pytest.raises(UserError) as error:
    hints.pixels(file, (64, 64), (64, 64))
  assert error.value.key == 'control_image'
  assert 'x.png' in str(error.value)
