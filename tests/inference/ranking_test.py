"""Judges combined by mean rank, and the curve of the best score."""

import itertools

import numpy as np
import pytest

from sana_jax.inference import ranking

pytestmark = pytest.mark.fast


def test_equal_scores_share_the_mean_of_their_ranks():
  scores = np.array([0.5, 0.9, 0.5, 0.1, 0.5])
  np.testing.assert_array_equal(ranking.ranks(scores), [3, 1, 3, 5, 3])


def test_the_scale_of_a_judge_does_not_matter():
  scores = np.random.default_rng().normal(size=(9, 2))
  stretched = scores * [1.0, 1000.0] + [3.0, -7.0]
  np.testing.assert_array_equal(
    ranking.mean_ranks(scores), ranking.mean_ranks(stretched)
  )


def test_the_mean_rank_is_that_over_judges():
  # Ranks 1 2 3 and 3 1 2.
  scores = np.array([[9.0, 0.1], [5.0, 0.9], [1.0, 0.5]])
  np.testing.assert_array_equal(ranking.mean_ranks(scores), [2, 1.5, 2.5])


@pytest.mark.parametrize('count', [1, 2, 5])
def test_the_expected_best_is_the_mean_over_all_subsets(count):
  scores = np.random.default_rng().normal(size=5).tolist()
  want = np.mean([max(x) for x in itertools.combinations(scores, count)])
  (got,) = ranking.expected_best(scores, [count])
  np.testing.assert_allclose(got, want, rtol=1e-12)


def test_the_curve_has_powers_of_two_and_the_whole():
  assert ranking.counts_up_to(1) == [1]
  assert ranking.counts_up_to(8) == [1, 2, 4, 8]
  assert ranking.counts_up_to(9) == [1, 2, 4, 8, 9]
