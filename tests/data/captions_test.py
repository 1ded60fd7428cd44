import math

import numpy as np
import pytest

from sana_jax.data.captions import Captioned, CaptionRule, choose
from sana_jax.data.facts import filter_score, numbers, of_json

pytestmark = pytest.mark.fast

FOUR = {'prompt': 'p', 'a': 'A', 'b': 'B', 'c': 'C'}
SCORES = {'a': 26.0, 'b': 30.0, 'c': 24.0}


def chances(rule, scores=SCORES, captions=FOUR):
  return rule.probabilities(captions, scores)


def test_the_official_rule_is_a_power_of_scores_above_the_threshold():
  # As NVlabs/Sana's weighted_sample_clipscore: score ** (1 / T) over their sum.
  got = chances(CaptionRule('official', 25.0, 0.1))
  weight = 26.0**10 + 30.0**10
  assert got == pytest.approx(
    {'prompt': 0, 'a': 26.0**10 / weight, 'b': 30.0**10 / weight, 'c': 0}
  )
  assert sum(got.values()) == pytest.approx(1)


def test_the_official_temperature_is_a_hundredth_at_least():
  got = chances(CaptionRule('official', 25.0, 0.0))
  assert got['a'] == pytest.approx((26 / 30) ** 100 / (1 + (26 / 30) ** 100))


def test_a_score_at_the_threshold_counts():
  assert chances(CaptionRule('official', 30.0))['b'] == 1


def test_the_best_is_taken_if_none_reaches_the_threshold():
  assert chances(CaptionRule('official', 31.0))['b'] == 1
  assert (
    chances(CaptionRule('official', -9.0), {'a': -1.0, 'b': -2.0})['a'] == 1
  )


def test_the_paper_s_rule_is_a_softmax_over_scored_captions():
  got = chances(CaptionRule('paper', temperature=2.0))
  weights = {name: math.exp(score / 2) for name, score in SCORES.items()}
  for name, weight in weights.items():
    assert got[name] == pytest.approx(weight / sum(weights.values()))
  assert got['prompt'] == 0
  # At the published temperature too, where exp(300) would not fit a float32.
  assert chances(CaptionRule('paper'))['b'] == pytest.approx(1)


def test_first_is_the_prompt_and_uniform_is_any():
  assert chances(CaptionRule('first'))['prompt'] == 1
  assert chances(CaptionRule('first'), captions={'x': '1', 'y': '2'})['x'] == 1
  assert chances(CaptionRule('uniform')) == dict.fromkeys(FOUR, 0.25)


@pytest.mark.parametrize('rule', ['official', 'paper'])
@pytest.mark.parametrize(
  'scores', [{}, {'elsewhere': 30.0}, {'a': float('nan')}]
)
def test_without_scores_the_prompt_is_chosen(rule, scores):
  assert chances(CaptionRule(rule), scores)['prompt'] == 1


def test_captions_are_drawn_with_their_probabilities():
  rule, rng, count = (
    CaptionRule('official', 20.0, 0.2),
    np.random.default_rng(7),
    20_000,
  )
  drawn = [choose(FOUR, SCORES, rule, rng) for _ in range(count)]
  for name, chance in chances(rule).items():
    # Five standard deviations of a binomial.
    bound = 5 * math.sqrt(chance * (1 - chance) / count) + 1e-12
    assert abs(drawn.count(name) / count - chance) <= bound


class Two:
  """Two records with the same captions."""

  def __len__(self):
    return 2

  def __getitem__(self, index):
    return {'index': index, 'captions': FOUR, 'scores': {}, 'caption': 'p'}


def test_the_choice_follows_from_the_seed_the_record_and_the_draw():
  rule = CaptionRule('uniform')
  draws = lambda seed, index: [
    Captioned(Two(), rule, seed).at(index, draw)['caption']
    for draw in range(40)
  ]
  assert draws(0, 0) == draws(0, 0)
  assert draws(0, 0) != draws(1, 0) and draws(0, 0) != draws(0, 1)
  assert set(draws(0, 0)) == {'p', 'A', 'B', 'C'}
  source = Captioned(Two(), rule)
  assert source[1] == source.at(1, 0)
  assert set(source[1]) == {'index', 'caption'}


@pytest.mark.parametrize(
  'content, captions, scores',
  [
    ({'prompt': ' a '}, {'prompt': 'a'}, {}),
    ({'caption': 'a', 'other': 'b'}, {'prompt': 'a'}, {}),
    ({'captions': {'x': 'a', 'y': 3}}, {'x': 'a'}, {}),
    ({'captions': ['a', 'b']}, {'prompt': 'a', '1': 'b'}, {}),
    (
      {'prompt': 'a', 'vila': 'b', 'scores': {'vila': '25.5', 'z': 'high'}},
      {'prompt': 'a', 'vila': 'b'},
      {'vila': 25.5},
    ),
    ({'prompt': None, 'captions': 7, 'scores': 8}, {}, {}),
  ],
)
def test_captions_are_found_in_json(content, captions, scores):
  assert of_json(content)[:2] == (captions, scores)


def test_the_prompt_s_score_is_what_filters_compare():
  assert filter_score({'a': 30.0, 'prompt': 20.0}) == 20
  assert filter_score({'a': 30.0, 'b': 20.0}) == 30
  assert math.isnan(filter_score({}))


def test_numbers_that_overflow_a_float_are_not_scores():
  assert numbers({'a': 10**400, 'b': 'inf', 'c': '2.5'}) == {'c': 2.5}
