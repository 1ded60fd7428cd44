"""Choosing among candidates: closed forms of rankings and tournaments."""

import math

import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import verify
from sana_jax.inference.verify import Candidate, Pool

pytestmark = pytest.mark.fast


def picture(value):
  return np.full((2, 2, 3), value, np.uint8)


def brightness(prompts, images):
  assert len(prompts) == len(images)
  return np.asarray(images, np.float32).mean(axis=(1, 2, 3))


def brighter(prompts, first, second):
  return brightness(prompts, first) >= brightness(prompts, second)


def feed(chooser, values, keep, portion=5, pools=None):
  """Candidates kept from pictures of these values that arrive in portions."""
  pool = Pool('x', len(values), keep)
  for start in range(0, len(values), portion):
    new = [
      Candidate(n, picture(values[n]))
      for n in range(start, min(start + portion, len(values)))
    ]
    (pool,) = verify.narrow(
      chooser, [pool._replace(candidates=(*pool.candidates, *new))]
    )
    if pools is not None:
      pools.append(pool)
  return pool.candidates


def textbook(first_wins, values, keep):
  """Round by round as one would draw it, the odd one out with a bye."""
  survivors = []
  for b in range(keep):
    left = list(range(b * len(values) // keep, (b + 1) * len(values) // keep))
    while len(left) > 1:
      pairs = [left[i : i + 2] for i in range(0, len(left), 2)]
      left = [
        pair[0] if len(pair) == 1 or first_wins(*values[pair]) else pair[1]
        for pair in pairs
      ]
    survivors += left
  return survivors


def test_the_best_are_the_highest_and_of_equals_the_first():
  assert verify.best([0.1, 0.5, 0.3, 0.5, 0.2], 3) == [1, 3, 2]
  assert verify.best([1.0, 1.0, 1.0], 2) == [0, 1]


@pytest.mark.parametrize('portion', [1, 3, 40])
@pytest.mark.parametrize('keep', [1, 2, 5])
def test_scores_keep_the_highest_however_they_come(portion, keep):
  values = np.random.default_rng(keep).integers(0, 20, 23)
  kept = feed(brightness, values, keep, portion)
  want = sorted(range(23), key=lambda n: (-values[n], n))[:keep]
  assert [c.number for c in kept] == want
  assert [c.score for c in kept] == [values[n] for n in want]
  np.testing.assert_array_equal(kept[0].image, picture(values[want[0]]))


@pytest.mark.parametrize('portion', [1, 3, 40])
@pytest.mark.parametrize(
  'count, keep',
  [
    (1, 1),
    (2, 1),
    (2, 2),
    (5, 1),
    (7, 1),
    (8, 1),
    (8, 4),
    (11, 1),
    (13, 3),
    (16, 2),
    (23, 5),
    (32, 1),
  ],
)
def test_a_tournament_is_the_textbook_one(count, keep, portion):
  values = np.random.default_rng(count).integers(0, 12, count)
  # Of seven, each beats the three after it, so the pairing decides.
  around = lambda a, b: (int(b) - int(a)) % 7 <= 3

  def compare(prompts, first, second):
    return np.array(
      [around(a[0, 0, 0], b[0, 0, 0]) for a, b in zip(first, second)]
    )

  for chooser, first_wins in (
    (brighter, lambda a, b: a >= b),
    (compare, around),
  ):
    kept = feed(chooser, values, keep, portion)
    assert [c.number for c in kept] == textbook(first_wins, values, keep)


def test_the_last_one_standing_has_the_highest_score():
  for count in range(1, 40):
    values = np.random.default_rng(count).permutation(count)
    (won,), (best,) = (
      feed(chooser, values, 1) for chooser in (brighter, brightness)
    )
    assert won.number == best.number == values.argmax()


@pytest.mark.parametrize('count, keep', [(1, 1), (16, 4), (21, 4), (64, 1)])
def test_each_match_sends_one_home(count, keep):
  matches = []

  def compare(prompts, first, second):
    matches.append(len(prompts))
    return brighter(prompts, first, second)

  feed(compare, np.arange(count), keep)
  assert sum(matches) == count - keep


def test_survivors_come_from_brackets_of_their_own():
  # The two highest are in the first half, so one of them goes home.
  kept = feed(brighter, [9, 8, 1, 2, 3, 4, 5, 6], 2)
  assert [c.number for c in kept] == [0, 7]
  assert verify.brackets(7, 3) == [(0, 2), (2, 4), (4, 7)]


@pytest.mark.parametrize('chooser', [brightness, brighter])
def test_few_candidates_are_held(chooser):
  pools = []
  feed(chooser, np.random.default_rng(0).integers(0, 256, 200), 3, 1, pools)
  assert max(len(p.candidates) for p in pools) <= 3 + math.log2(200)


def test_pools_do_not_mix():
  pools = [
    Pool(
      name, 3, 1, tuple(Candidate(n, picture(v)) for n, v in enumerate(values))
    )
    for name, values in (('low', [1, 2, 0]), ('high', [7, 9, 8]))
  ]

  def scorer(prompts, images):
    assert prompts == ['low'] * 3 + ['high'] * 3
    return brightness(prompts, images)

  for chooser in (scorer, brighter):
    assert [
      [c.number for c in pool.candidates]
      for pool in verify.narrow(chooser, pools)
    ] == [[1], [1]]


# (yes, logit) of the first and of the second; whether the first wins.
@pytest.mark.parametrize(
  'first, second, wins',
  [
    ((True, -3), (False, 9), True),
    ((False, 9), (True, -3), False),
    ((True, 2), (True, 1), True),
    ((True, 1), (True, 2), False),
    ((False, 2), (False, 1), False),
    ((False, 1), (False, 2), True),
    ((True, 1), (True, 1), True),
    ((False, 1), (False, 1), True),
  ],
)
def test_yes_beats_no_and_logits_decide_the_rest(first, second, wins):
  verdicts = {1: first, 2: second}

  def verifier(prompts, images):
    yes, logit = zip(*(verdicts[int(i[0, 0, 0])] for i in images))
    return np.array(yes), np.array(logit, np.float32)

  compare = verify.comparator_of(verifier)
  assert verify.is_comparator(compare)
  assert compare(['x'], picture(1)[None], picture(2)[None]).tolist() == [wins]


@pytest.mark.parametrize(
  'chooser, value',
  [
    (
      lambda prompts, images: np.zeros((len(images), 1)),
      (5, 1),
    ),
    (lambda prompts, images: [math.nan] * len(images), None),
    (
      lambda prompts, first, second: [0.5] * len(first),
      'float64',
    ),
    (lambda images: 0, ('images',)),
    (max, ()),
  ],
)
def test_an_invalid_scorer_raises(chooser, value):
  with pytest.raises(UserError) as error:
    feed(chooser, range(5), 1)
  assert error.value.key == '--scorer'
  assert value in (None, error.value.value)
