"""Arguments of few steps: angles, strength, images, diffusers' names."""

import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import few_steps, input_image
from sana_jax.inference.diffusers_names import arguments
from sana_jax.inference.schedulers import time_grid

pytestmark = pytest.mark.fast
OURS = ('prompts', 'steps', 'times', 'image', 'strength')


def resolved(sampler='scm', own=2, **given):
  values = {'sampler': sampler, 'steps': given.get('steps') or own}
  return few_steps.resolved(given, values)


@pytest.mark.parametrize(
  'given, times',
  [
    ({}, [1.5708, 1.3]),
    ({'steps': 1}, [1.5708]),
    ({'steps': 3}, [1.5708, 1.5708 * 2 / 3, 1.5708 / 3]),
    ({'times': [1.5, 1.0, 0.5]}, [1.5, 1.0, 0.5]),
    ({'times': [1.5, 1.0, 0.5], 'steps': 3}, [1.5, 1.0, 0.5]),
    ({'image': 'x', 'strength': 0.5}, [0.7854, 0.65]),
    ({'image': 'x', 'strength': np.float32(0.5), 'steps': 1}, [0.7854]),
    ({'image': 'x', 'steps': 1}, [0.6 * 1.5708]),
    ({'image': 'x', 'times': [1.3]}, [1.3]),
  ],
)
def test_angles_follow_from_steps_strength_or_times(given, times):
  found = resolved(**given)
  np.testing.assert_allclose(found['times'], times, rtol=1e-6)
  assert found['steps'] == len(times)


def test_other_samplers_have_no_angles():
  found = resolved('euler', own=20, image='x', strength=0.5)
  assert found == {'steps': 20, 'times': None, 'strength': 0.5}


@pytest.mark.parametrize(
  'given, strength',
  [
    ({}, None),
    ({'image': 'x'}, 0.6),
    ({'image': 'x', 'mask': 'y'}, 1.0),
    ({'image': 'x', 'strength': 0}, 0.0),
    ({'image': 'x', 'times': [1.3]}, None),
  ],
)
def test_the_strength_is_by_default_that_of_its_kind(given, strength):
  assert resolved(**given)['strength'] == strength


@pytest.mark.parametrize('sampler', ['euler', 'dpm++2m'])
@pytest.mark.parametrize('steps, strength', [(20, 0.55), (4, 0.6), (3, 0.1)])
def test_evaluations_are_those_of_the_rest_of_the_grid(
  sampler, steps, strength
):
  grid = time_grid(sampler, steps, 3.0, strength=strength)
  count = few_steps.evaluations(sampler, steps, strength)
  assert count == len(grid.timesteps)
  assert few_steps.evaluations(sampler, steps, None) == steps
  assert few_steps.evaluations(sampler, steps, 0) == 0
  assert few_steps.evaluations('scm', steps, strength) == steps


@pytest.mark.parametrize(
  'given, key',
  [
    ({'times': [1.0, 1.3]}, 'times'),
    ({'times': [1.6]}, 'times'),
    ({'times': [1.0], 'steps': 2}, 'steps'),
    ({'image': 'x', 'strength': 0.5, 'times': [1.0]}, 'strength'),
    ({'image': 'x', 'strength': -0.1}, 'strength'),
    ({'image': 'x', 'strength': float('nan')}, 'strength'),
    ({'image': 'x', 'strength': 1.1}, 'strength'),
    ({'image': 'x', 'strength': 'much'}, 'strength'),
    ({'sampler': 'euler', 'times': [1.0]}, 'times'),
    ({'sampler': 'euler', 'image': 'x', 'strength': 2}, 'strength'),
  ],
)
def test_what_excludes_another_is_refused(given, key):
  with pytest.raises(UserError) as refused:
    resolved(**given)
  assert refused.value.key == key


@pytest.mark.parametrize(
  'given, times',
  [
    ({'timesteps': [1.5, 0.5, 0]}, [1.5, 0.5, 0]),
    ({'intermediate_timesteps': 1.0}, [1.5708, 1.0]),
    ({'max_timesteps': 1.5, 'num_inference_steps': 1}, [1.5]),
    (
      {'max_timesteps': 1.2, 'intermediate_timesteps': None, 'steps': 3},
      [1.2, 0.8, 0.4],
    ),
    ({'max_timesteps': None, 'steps': 4}, None),
  ],
)
def test_diffusers_angles_are_read(given, times):
  found = arguments(given, OURS).get('times')
  assert (found is None) == (times is None)
  if times:
    np.testing.assert_allclose(found, times)


@pytest.mark.parametrize(
  'given, key',
  [
    ({'timesteps': [1.0], 'max_timesteps': 1.5}, 'times'),
    ({'max_timesteps': 'x'}, 'max_timesteps'),
    ({'intermediate_timesteps': 2.0}, 'intermediate_timesteps'),
    ({'max_timesteps': 1.5, 'steps': 'x'}, 'steps'),
  ],
)
def test_bad_angles_of_diffusers_are_refused(given, key):
  with pytest.raises(UserError) as refused:
    arguments(given, OURS)
  assert refused.value.key == key


def test_an_image_is_fitted_without_distortion(tmp_path):
  """Its centre is kept: a column of one colour in three."""
  colours = np.zeros((8, 24, 3), np.uint8)
  colours[:, 8:16] = 200
  path = tmp_path / 'three.png'
  Image.fromarray(colours).save(path)
  for image in (
    path,
    str(path),
    Image.fromarray(colours),
    colours,
    colours / 255,
    input_image.description(path),
  ):
    got = input_image.fitted(input_image.pixels(image), 8, 8)
    np.testing.assert_array_equal(got, np.full((8, 8, 3), 200))
  grown = input_image.fitted(colours, 16, 16)
  assert grown.shape == (16, 16, 3) and grown[4:12, 4:12].min() > 190


def test_a_changed_image_is_refused(tmp_path):
  path = tmp_path / 'x.png'
  Image.new('RGB', (4, 4)).save(path)
  about = input_image.description(path)
  Image.new('RGB', (4, 4), 'red').save(path)
  with pytest.raises(UserError) as refused:
    input_image.pixels(about)
  assert refused.value.key == 'image'


@pytest.mark.parametrize(
  'image',
  [
    None,
    5,
    'absent.png',
    '.',
    'a\0b',
    np.zeros((4, 4)),
    np.zeros((4, 4, 4), np.uint8),
    np.zeros((0, 4, 3), np.uint8),
    np.full((4, 4, 3), 1.5),
    np.full((4, 4, 3), np.nan),
    np.zeros((4, 4, 3), np.int32),
    {'file': 'x'},
    {'file': 5, 'sha256': ''},
    [['a']],
    [[1], [1, 2]],
    'text.txt',
  ],
  ids=lambda x: str(x)[:20],
)
def test_what_is_no_image_is_refused(image, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'text.txt').write_text('no image')
  with pytest.raises(UserError) as refused:
    input_image.pixels(image)
  assert refused.value.key == 'image'
