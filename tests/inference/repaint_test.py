"""The shipped models repaint one object of a scene, and leave the other."""

import numpy as np
import pytest

from sana_jax import Pipeline
from sana_jax.data.shapes import compose, meaning, Object, render
from sana_jax.evaluation import shapes_suite
from sana_jax.evaluation.shapes_detector import detect

pytestmark = pytest.mark.long

# Captions of two objects, before and after the second one is repainted.
SCENES = (
  ('a red circle is left of a blue square', 'a green star'),
  ('a yellow star is above a purple triangle', 'a red circle'),
  ('a green square is above a yellow circle', 'a blue triangle'),
)


@pytest.fixture(scope='module', params=['shapes', 'shapes-sprint'])
def pipe(request):
  return Pipeline.from_pretrained(request.param, encoder=True)


def names(things):
  return sorted((thing.shape, thing.color) for thing in things)


def around(thing: Object, size: int):
  """Mask of an object's bounding box with a margin."""
  y, x = (np.mgrid[:size, :size] + 0.5) / size
  return np.maximum(abs(x - thing.x), abs(y - thing.y)) < thing.radius + 0.06


@pytest.mark.parametrize('caption, new', SCENES)
def test_a_new_object_takes_the_place_of_one_and_the_other_is_untouched(
  pipe, caption, new
):
  prompt = ' '.join([*caption.split()[:-3], new])
  old, wanted = meaning(caption), meaning(prompt)
  scene = compose(old, caption, np.random.default_rng(0))
  image, mask = render(scene, 128), around(scene.objects[1], 128)
  first, second = (
    next(x for x in detect(image) if x.shape == want.shape)
    for want in old.wants
  )
  samplers = [{}, {'sampler': 'scm', 'steps': 8}, {'sampler': 'euler'}]
  for how in samplers[: 1 if pipe.sampler == 'scm' else 3]:
    made = pipe(
      prompt, image=image, mask=mask, num_images=4, output_type='uint8', **how
    ).images
    follow = 0
    for got in made:
      np.testing.assert_array_equal(got[~mask], image[~mask])
      found = detect(got)
      assert (second.shape, second.color) not in names(found)
      # Not only a like object, but the same pixels.
      assert any(
        (x.x, x.y, x.radius) == (first.x, first.y, first.radius) for x in found
      )
      follow += shapes_suite.follows(wanted, found)
      follow -= len(found) > 2
    assert follow >= 3, how  # Of 4: the models follow 98 to 99 % of prompts.
