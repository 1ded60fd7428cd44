"""A metric over its limit ends a run, a single outlier does not."""

import math

import pytest

from sana_jax.errors import UserError
from sana_jax.training.limits import Limit, Limits

pytestmark = pytest.mark.fast

LIMIT = Limit('ratio', 1.0, 'sprint.high', 'the ratio', 'Lower the rate.')


def fed(values, limits=(LIMIT,), **kwargs):
  """The step at which these values end a run, and the error; or None."""
  check = Limits(limits, **kwargs)
  for step, value in enumerate(values, start=1):
    try:
      check(step, {'ratio': value})
    except UserError as e:
      return step, e
  return None


def test_a_mean_over_the_limit_ends_the_run_with_its_key():
  step, error = fed([0.5] * 10 + [2.0] * 20, last_good=lambda: 'out/5')
  # 0.5 + 1.5 (1 - 0.9^n) > 1 after four steps.
  assert step == 14
  assert error.key == 'sprint.high' and '1' in error.allowed
  assert error.value == pytest.approx(0.5 + 1.5 * (1 - 0.9**4))
  assert 'out/5' in str(error) and 'step 14' in str(error)


def test_an_outlier_and_values_that_are_not_finite_do_not():
  assert fed([0.5] * 20 + [4.0] + [0.5] * 20) is None
  assert fed([0.5] * 20 + [math.nan, math.inf] + [0.5] * 20) is None


def test_the_first_steps_are_not_judged():
  assert fed([3.0] * 9) is None
  assert fed([3.0] * 30)[0] == 10


def test_metrics_without_a_limit_and_missing_ones_are_ignored():
  assert fed([9.0] * 30, limits=()) is None
  check = Limits((LIMIT,))
  for step in range(30):
    check(step, {'loss': 9.0})
