"""Every caption is parsed, and better pictures have better grades."""

import numpy as np
import pytest

from sana_jax.data.shapes import (
  compose,
  KINDS,
  meaning,
  phrasings,
  render,
  Requirement,
  requirements,
  Want,
)
from sana_jax.errors import UserError
from sana_jax.evaluation import scorers, shapes_scorer, shapes_suite
from sana_jax.evaluation.shapes_detector import Detected

pytestmark = pytest.mark.fast


@pytest.mark.parametrize('kind', KINDS)
def test_the_meaning_of_every_caption_is_its_requirement(kind):
  for requirement in requirements(kind):
    for text in phrasings(requirement):
      assert meaning(text) == requirement
      assert meaning(f'  {text.capitalize()}. ') == requirement


@pytest.mark.parametrize(
  'text',
  [
    '',
    'a cat',
    'a red circle left of',
    'a red circle left of a blue circle',
    'five stars',
    'a orange star',
    'two circle',
    'a red circle and',
    'circle',
  ],
)
def test_other_text_has_no_meaning(text):
  assert meaning(text) is None
  with pytest.raises(UserError) as error:
    shapes_scorer.read(text)
  assert (error.value.key, error.value.value) == ('prompt', text)


def thing(shape, color='red', x=0.5, overlap=0.9):
  return Detected(shape, color, x, 0.5, 0.1, overlap)


LEFT = Requirement(
  'position', (Want('circle', 'red'), Want('star', 'blue')), 'left of'
)


# Means of presence, few others, overlap, colours, relation; half of each, and
# a half for following the prompt.
@pytest.mark.parametrize(
  'detected, grade',
  [
    ([thing('circle', x=0.2), thing('star', 'blue', 0.8)], 0.5 + 4.9 / 10),
    ([thing('circle', x=0.8), thing('star', 'blue', 0.2)], 3.9 / 10),
    ([thing('circle', x=0.2), thing('star', 'red', 0.8)], 4.4 / 10),
    ([thing('circle', x=0.2)], (0.5 + 1 + 0.9 + 0.5) / 10),
    (
      [
        thing('circle', x=0.2),
        thing('star', 'blue', 0.8),
        thing('square'),
        thing('square'),
      ],
      0.5 + 4.4 / 10,
    ),
    ([], 0.1),
  ],
)
def test_grades_follow_the_formula(detected, grade):
  assert shapes_scorer.grade(LEFT, detected) == pytest.approx(grade)


def test_grades_of_half_or_more_follow_the_prompt():
  rng = np.random.default_rng(0)
  prompts = [p.requirement for p in shapes_suite.prompts(20)]
  scenes = [
    [
      thing(o.shape, o.color, o.x, rng.uniform(0.75, 1))
      for o in compose(want, '', rng).objects
    ][rng.integers(2) :]
    for want in prompts
  ]
  seen = set()
  for want in prompts:
    for detected in scenes:
      follows = shapes_suite.follows(want, detected)
      grade = shapes_scorer.grade(want, detected)
      assert 0 <= grade <= 1 and (grade >= 0.5) == follows
      seen.add(follows)
  assert seen == {True, False}


def test_true_pictures_score_higher_than_those_of_other_prompts():
  prompts = shapes_suite.prompts(3)
  rng = np.random.default_rng(0)
  images = np.stack(
    [render(compose(p.requirement, '', rng), 64) for p in prompts]
  )
  score = scorers.load('shapes')
  own = score([p.text for p in prompts], images)
  assert own.shape == (18,) and own.min() > 0.9
  # An image of another kind lacks something, but not always for `single`.
  other = score([p.text for p in prompts], np.roll(images, 3, axis=0))
  assert (other < own).mean() > 0.9


@pytest.mark.parametrize(
  'name, value, allowed',
  [
    ('clip', 'clip', scorers.NAMES),
    ('numpy:', 'numpy:', scorers.NAMES),
    (':mean', ':mean', scorers.NAMES),
    ('no_such_thing:score', 'no_such_thing:score', 'modules in PYTHONPATH'),
    ('numpy:no_such', 'numpy:no_such', 'functions of numpy'),
    ('numpy:pi', 'numpy:pi', 'functions of numpy'),
    (
      'textwrap:dedent',
      ('text',),
      '(prompts, images) or (prompts, images, images)',
    ),
  ],
)
def test_a_missing_scorer_is_reported(name, value, allowed):
  with pytest.raises(UserError) as error:
    scorers.load(name)
  assert error.value.key == '--scorer'
  assert (error.value.value, error.value.allowed) == (value, allowed)
