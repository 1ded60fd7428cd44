import numpy as np
import pytest

from sana_jax.data.shapes import Object, render, Scene, scene
from sana_jax.data.shapes.captions import Requirement, Want
from sana_jax.evaluation.shapes_detector import detect

pytestmark = pytest.mark.fast


@pytest.mark.parametrize('size', [64, 96, 128])
def test_rendered_scenes_are_detected_exactly(size):
  wrong = 0
  for index in range(150):
    truth = scene(11, 'train', index)
    found = detect(render(truth, size))
    key = lambda thing: (round(thing.x, 1), thing.y, thing.shape)
    pairs = list(zip(sorted(truth.objects, key=key), sorted(found, key=key)))
    wrong += len(found) != len(truth.objects) or any(
      (a.shape, a.color) != (b.shape, b.color)
      or max(abs(a.x - b.x), abs(a.y - b.y), abs(a.radius - b.radius))
      > 0.2 / size
      for a, b in pairs
    )
  assert wrong <= 1  # 99 %.


def test_another_background_is_supported():
  truth = scene(0, 'train', 3)
  dark = Scene(truth.kind, '', truth.objects, truth.requirement, 20)
  names = lambda things: sorted((t.shape, t.color) for t in things)
  assert names(detect(render(dark, 64))) == names(truth.objects)


def test_blobs_and_specks_are_not_objects():
  image = np.full((64, 64, 3), 230, np.uint8)
  assert detect(image) == []
  image[10:14, 5:60] = (220, 40, 40)  # A bar is none of the shapes.
  image[40:43, 40:43] = (40, 80, 220)  # And nine pixels are noise.
  assert detect(image) == []


def test_the_most_confident_object_comes_first():
  clean = Scene(
    'colors',
    '',
    (
      Object('circle', 'red', 0.27, 0.5, 0.17),
      Object('circle', 'blue', 0.73, 0.5, 0.17),
    ),
    Requirement('colors', (Want('circle', 'red'),)),
    230,
  )
  image = render(clean, 64)
  image[38:44, :30] = 230  # The red circle loses its foot.
  assert [thing.color for thing in detect(image)] == ['blue', 'red']
