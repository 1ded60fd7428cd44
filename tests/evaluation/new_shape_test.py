"""A new shape: pictures to train on, prompts, and its template."""

import numpy as np
import pytest

from sana_jax.data.shapes import (
  compose,
  KINDS,
  NEW_SHAPES,
  render,
  SHAPES,
  words,
)
from sana_jax.data.shapes.render import outline_distance
from sana_jax.evaluation import new_shape, shapes_suite
from sana_jax.evaluation.shapes_detector import detect

pytestmark = pytest.mark.fast


@pytest.mark.long
@pytest.mark.parametrize('shape', NEW_SHAPES)
def test_no_caption_and_no_word_of_the_data_has_the_shape(shape):
  assert shape not in SHAPES
  assert not [word for word in words() if shape in word]


@pytest.mark.parametrize(
  'shape, x, y, inside',
  [
    ('diamond', 0.0, -0.99, True),
    ('diamond', 0.45, 0.5, True),  # |x| + |y| < 1.
    ('diamond', 0.55, 0.5, False),
    ('hexagon', 0.99, 0.4, True),  # Its box is 2 wide, with points up and down.
    ('hexagon', 0.0, -1.14, True),
    ('hexagon', 0.0, -1.17, False),  # 2 / sqrt(3) = 1.155.
    ('hexagon', 1.01, 0.0, False),
  ],
)
def test_an_outline_is_that_of_its_polygon(shape, x, y, inside):
  distance = outline_distance(shape, np.array([x]), np.array([y]))
  assert (distance < 0) == inside


@pytest.mark.parametrize('shape', NEW_SHAPES)
def test_its_template_finds_it_and_no_other(shape):
  rng = np.random.default_rng(0)
  shapes = (*SHAPES, shape)
  requested = [
    *new_shape.prompts(shape, KINDS, 8),
    *shapes_suite.prompts(8),
  ]
  for prompt in requested:
    image = render(compose(prompt.requirement, prompt.text, rng), 128)
    found = detect(image, shapes)
    assert shapes_suite.follows_strictly(prompt.requirement, found)


def test_every_prompt_has_the_shape_once_for_a_star():
  for kind in KINDS:
    for prompt in new_shape.prompts('hexagon', [kind], 12):
      assert prompt.kind == kind
      assert 'hexagon' in prompt.text and 'star' not in prompt.text
      shapes = [want.shape for want in prompt.requirement.wants]
      assert shapes.count('hexagon') == 1


def test_pictures_have_a_caption_with_their_colour():
  found = new_shape.pictures('diamond', 8, 0)
  assert len(found) == 8 and len({caption for _, caption in found}) > 6
  for number, (image, caption) in enumerate(found):
    (thing,) = detect(image, (*SHAPES, 'diamond'))
    assert thing.shape == 'diamond'
    assert (thing.color in caption.split()) == (number < 6)
  again, other = (new_shape.pictures('diamond', 8, seed) for seed in (0, 1))
  assert (found[0][0] == again[0][0]).all()
  assert (found[0][0] != other[0][0]).any()


def test_prompts_of_the_class_are_none_of_the_suite():
  texts = new_shape.class_prompts(16, 0)
  assert len({*texts}) == len(texts) > 16 * 5
  assert not {*texts} & {p.text for p in shapes_suite.prompts(160)}
