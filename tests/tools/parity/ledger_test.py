"""The ledger: passing and failing rows, and exceptions."""

import dataclasses
import math

import numpy as np
import pytest

from sana_jax.tools.parity import ledger
from sana_jax.tools.parity.ledger import Case, Measured


def case(measure, bound=1e-5, **changes):
  fields = dict(
    area='sana',
    what='block',
    size='tiny',
    dtype='float32',
    bound=bound,
    measure=measure,
  )
  return Case(**fields | changes)


def test_the_error_is_the_norm_of_the_difference_over_the_norm():
  want = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32)
  assert ledger.relative_error(want + [[0.3, 0], [0, 0.4]], want) == (
    pytest.approx(0.1)
  )
  assert ledger.relative_error(want, want) == 0
  assert ledger.relative_error(np.zeros(3), np.zeros(3)) == 0


@pytest.mark.parametrize(
  'got',
  [
    np.zeros((2, 2, 1)),
    np.zeros(4),
    np.full((2, 2), np.nan),
    np.full((2, 2), np.inf),
  ],
)
def test_wrong_shapes_and_non_finite_values_have_infinite_error(got):
  assert ledger.relative_error(got, np.ones((2, 2))) == math.inf
  assert ledger.relative_error(np.ones((2, 2)), np.full((2, 2), np.nan)) == (
    math.inf
  )
  assert ledger.relative_error(np.ones(2), np.zeros(2)) == math.inf


@pytest.mark.parametrize(
  'error, passed',
  [
    (0, True),
    (1e-5, True),
    (1.1e-5, False),
    (math.inf, False),
    (math.nan, False),
  ],
)
def test_a_row_passes_up_to_its_bound(error, passed):
  record = ledger.measure(case(lambda seed: error), 0)
  assert record.passed is passed
  assert record.verdict == ('ok' if passed else 'FAILED')


def test_a_measured_bound_takes_the_place_of_the_fixed_one():
  record = ledger.measure(case(lambda seed: Measured(0.02, 0.03)), 0)
  assert (record.error, record.bound, record.passed) == (0.02, 0.03, True)


def test_an_exception_is_a_row_and_not_the_end():
  def broken(seed):
    raise ValueError('two\nlines')

  heard = []
  records = ledger.run(
    [case(broken, what='a'), case(lambda seed: 0.0, what='b')], 0, heard.append
  )
  assert [r.verdict for r in records] == ['ERROR', 'ok'] and records == heard
  assert records[0].problem.startswith('ValueError: two lines (ledger_test.py:')


def test_an_interruption_ends_the_run():
  def interrupted(seed):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    ledger.run([case(interrupted)], 0)


def test_a_row_does_not_depend_on_which_others_run():
  draw = case(lambda seed: float(np.random.default_rng(seed).uniform()))
  alone = ledger.run([draw], 7)[0].error
  assert ledger.run([draw] * 2, 7)[1].error == alone
  assert ledger.run([draw], 8)[0].error != alone


@pytest.mark.parametrize('theirs, bound', [(0.002, 0.018), (0.04, 0.042)])
def test_bfloat16_is_bounded_by_the_references_error_or_designs(theirs, bound):
  want = np.ones(100)
  got = ledger.bfloat16('sana', want * 1.01, want * (1 + theirs), want)
  assert got == pytest.approx((0.01, bound), rel=1e-6)


def test_averages_are_over_different_draws_that_the_seed_repeats():
  seen = []

  def measure(seed):
    seen.append(seed)
    return Measured(len(seen), 10.0)

  assert ledger.averaged(measure, 3)(5) == (2.0, 10.0)
  ledger.averaged(measure, 3)(5)
  assert seen[:3] == seen[3:] and len(set(seen)) == 3


def test_records_have_the_fields_of_their_case():
  fields = dict(
    area='optim',
    what='CAME',
    size='100 steps',
    dtype='float64',
    quick=False,
    against='closed form',
  )
  record = ledger.measure(case(lambda seed: 0.0, **fields), 0)
  assert dataclasses.asdict(record).items() >= fields.items()
