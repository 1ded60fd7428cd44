import numpy as np
import pytest

from sana_jax.data.shapes import captions, compose, KINDS, render
from sana_jax.data.shapes.captions import Requirement, Want
from sana_jax.evaluation import shapes_suite
from sana_jax.evaluation.shapes_detector import Detected

pytestmark = pytest.mark.fast

follows = shapes_suite.follows
strictly = shapes_suite.follows_strictly


def thing(shape, color='red', x=0.5, y=0.5, overlap=0.9):
  return Detected(shape, color, x, y, 0.1, overlap)


def test_one_object_is_enough_for_single_but_not_when_strict():
  want = Requirement('single', (Want('circle'),))
  both = [thing('circle'), thing('star')]
  assert follows(want, both) and not strictly(want, both)
  assert strictly(want, both[:1])
  assert not follows(want, both[1:]) and not follows(want, [])


def test_two_requires_both_shapes():
  want = Requirement('two', (Want('circle'), Want('star')))
  assert follows(want, [thing('star'), thing('circle')])
  assert not follows(want, [thing('star'), thing('star')])


@pytest.mark.parametrize('count, right', [(1, False), (2, True), (3, False)])
def test_counting_is_exact(count, right):
  want = Requirement('counting', (Want('star', None, 2),))
  assert follows(want, [thing('star')] * count) is right
  assert follows(want, [thing('star')] * count + [thing('circle')]) is right


def test_counted_objects_all_have_the_colour():
  want = Requirement('counting', (Want('star', 'red', 2),))
  assert follows(want, [thing('star')] * 2)
  assert not follows(want, [thing('star'), thing('star', 'blue')])


def test_only_the_most_confident_object_needs_the_requested_colour():
  want = Requirement('colors', (Want('circle', 'red'),))
  red, blue = thing('circle', 'red'), thing('circle', 'blue', overlap=0.8)
  assert follows(want, [blue, red])
  assert not follows(want, [red, thing('circle', 'blue', overlap=0.95)])


def test_attribution_is_not_fooled_by_swapped_colours():
  want = Requirement(
    'attribution', (Want('circle', 'red'), Want('square', 'blue'))
  )
  assert follows(want, [thing('square', 'blue'), thing('circle', 'red')])
  assert not follows(want, [thing('square', 'red'), thing('circle', 'blue')])


# Boxes of .2 give a margin of .1 * (.2 + .2) = .04; what is left must exceed
# half of the distance: straight offsets count from .08.
@pytest.mark.parametrize(
  'dx, dy, sides',
  [
    (0.07, 0, set()),
    (0.09, 0, {'right of'}),
    (-0.09, 0, {'left of'}),
    (0, -0.3, {'above'}),
    (0, 0.3, {'below'}),
    (0.3, 0.3, {'right of', 'below'}),
    (0.3, 0.05, {'right of'}),
    (0, 0, set()),
  ],
)
def test_sides_are_those_of_geneval(dx, dy, sides):
  first, second = thing('circle', x=0.5 + dx, y=0.5 + dy), thing('star')
  assert shapes_suite.relations(first, second) == sides


def test_position_is_directed():
  want = Requirement(
    'position', (Want('circle', 'red'), Want('square', 'red')), 'left of'
  )
  left, right = thing('circle', x=0.2), thing('square', x=0.8)
  assert follows(want, [right, left])
  assert not follows(want, [thing('circle', x=0.8), thing('square', x=0.2)])


def test_prompts_are_held_out_seeded_and_balanced():
  chosen = shapes_suite.prompts(12, seed=5)
  assert [p.kind for p in chosen] == [k for k in KINDS for _ in range(12)]
  for prompt in chosen:
    assert (
      prompt.text in dict(captions(prompt.kind, 'heldout'))[prompt.requirement]
    )
  assert chosen == shapes_suite.prompts(12, seed=5)
  assert chosen != shapes_suite.prompts(12, seed=6)
  position = [p.text for p in chosen if p.kind == 'position']
  assert len(set(position)) == 12


def draw(prompts, size=64):
  rng = np.random.default_rng(0)
  return np.stack(
    [render(compose(p.requirement, p.text, rng), size) for p in prompts]
  )


def test_true_images_score_one_and_shuffled_ones_chance():
  chosen = shapes_suite.prompts(8)
  scores = shapes_suite.score(draw(chosen), chosen)
  assert list(scores) == [*KINDS, 'overall']
  for kind in KINDS:
    assert (scores[kind].accuracy, scores[kind].strict) == (1, 1)
    assert scores[kind].images == 8
  mean = np.mean([scores[kind].chance for kind in KINDS])
  assert scores['overall'].chance == pytest.approx(mean)
  # A shape named alone is in one image of three, a colour pair in few.
  assert scores['attribution'].chance < 0.1 < scores['single'].chance < 0.6


def test_chance_is_one_for_equal_prompts_and_none_for_exclusive_ones():
  prompt = {p.text: p for p in shapes_suite.prompts(60)}
  same = [prompt['an orange triangle']] * 3
  assert shapes_suite.score(draw(same), same)['colors'].chance == 1
  other = [prompt['an orange triangle'], prompt['a green circle']]
  assert shapes_suite.score(draw(other), other)['colors'].chance == 0


def test_blank_images_score_zero():
  chosen = shapes_suite.prompts(1)
  blank = np.full((len(chosen), 32, 32, 3), 230, np.uint8)
  overall = shapes_suite.score(list(blank), chosen)['overall']
  assert (overall.accuracy, overall.strict, overall.chance) == (0, 0, 0)


def test_the_table_names_every_kind():
  scores = {'single': shapes_suite.Score(0.75, 0.5, 0.25, 4)}
  head, row = shapes_suite.table(scores).splitlines()
  assert head.split() == ['kind', 'score', 'strict', 'chance', 'images']
  assert row.split() == ['single', '0.750', '0.500', '0.250', '4']
