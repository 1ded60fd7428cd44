"""Every record is read as often as every other, in steps of one bucket."""

import collections

import numpy as np
import pytest

from sana_jax.data.order import Bucketed, Paired, shuffled
from sana_jax.errors import UserError

BUCKETS = [
  np.array([0, 3, 4]),
  np.array([], int),
  np.array([1]),
  np.array([2, 5, 6, 7, 8]),
]


def read(order, batch_size, steps):
  return [
    [order.record(step, row) for row in range(batch_size)] for step in steps
  ]


def test_every_pass_is_complete_and_has_its_own_order():
  epochs = np.array(read(shuffled(30, 10, 0), 10, range(6))).reshape(2, 30)
  assert (np.sort(epochs) == np.arange(30)).all()
  assert (epochs[0] != epochs[1]).any() and (epochs[0] != range(30)).any()
  # Nor is a pass the first one of the next seed.
  other = np.array(read(shuffled(30, 10, 1), 10, range(3))).ravel()
  assert (epochs[1] != other).any() and (epochs[0] != other).any()


def test_a_step_has_one_bucket_and_a_cycle_reads_all_equally_often():
  order = Bucketed(BUCKETS, 4, 0)
  for cycle in range(2):
    steps = range(9 * cycle, 9 * cycle + 9)
    batches = read(order, 4, steps)
    for step, batch in zip(steps, batches):
      assert set(batch) <= set(BUCKETS[order.bucket(step)])
    counts = collections.Counter(np.ravel(batches).tolist())
    assert counts == {record: 4 for record in range(9)}
  turns = [order.bucket(step) for step in range(9)]
  assert turns != sorted(turns)


def test_reads_within_a_bucket_differ_by_one_at_most():
  order, counts = Bucketed(BUCKETS, 4, 3), collections.Counter(range(9))
  for step in range(40):
    counts.update(read(order, 4, [step])[0])
    for members in BUCKETS:
      if len(members):
        seen = [counts[i] for i in members.tolist()]
        assert max(seen) - min(seen) <= 1


def test_the_order_is_a_function_of_the_seed():
  make = lambda seed: read(Bucketed(BUCKETS, 4, seed), 4, range(20))
  assert make(0) == make(0) != make(1)
  # At random steps, as in a resumed run.
  assert read(Bucketed(BUCKETS, 4, 0), 4, [17]) == [make(0)[17]]


def test_substitutes_are_of_the_same_bucket_and_not_always_the_same():
  order = Bucketed(BUCKETS, 4, 0)
  for step in range(20):
    found = {order.substitute(step, 1, i) for i in range(50)}
    assert found == set(BUCKETS[order.bucket(step)].tolist())


def test_rows_and_steps_have_substitutes_of_their_own():
  order = shuffled(10_000, 8, 0)
  found = {order.substitute(s, row, 0) for s in range(4) for row in range(8)}
  assert len(found) > 28  # Of 32; two are equal once in 20 seeds.


def test_an_empty_source_is_reported():
  with pytest.raises(UserError) as error:
    shuffled(0, 2, 0)
  assert (error.value.key, error.value.value) == ('data.path', 0)
  with pytest.raises(UserError) as error:
    shuffled(3, 0, 0)
  assert (error.value.key, error.value.value) == ('batch_size', 0)


@pytest.mark.parametrize('count', [1, 2, 7, 1023, 1024, 1500])
def test_each_epoch_has_every_record_once_in_another_order(count):
  order = shuffled(count, 1, seed=5)
  epochs = [
    [order.record(epoch * count + i, 0) for i in range(count)]
    for epoch in range(3)
  ]
  for epoch in epochs:
    assert sorted(epoch) == [*range(count)]
  if count > 6:
    assert epochs[0] != epochs[1] != epochs[2]


def test_odd_rows_of_pairs_are_records_of_the_other_set_in_the_same_bucket():
  own = [np.arange(0), np.array([0, 1, 1, 2]), np.array([3])]
  others = [np.array([4, 5]), np.array([6, 7, 8]), np.array([9])]
  order = Paired(own, others, 4, seed=0)
  plain = Bucketed(own, 2, seed=0)
  counts = collections.Counter()
  for step in range(60):  # 12 cycles of 5.
    bucket = order.bucket(step)
    assert bucket == plain.bucket(step)
    rows = [order.record(step, row) for row in range(4)]
    assert rows[::2] == [plain.record(step, row) for row in range(2)]
    assert set(rows[1::2]) <= {*others[bucket]}
    assert order.substitute(step, 1, 0) in others[bucket]
    assert order.substitute(step, 2, 0) in own[bucket]
    counts.update(rows)
  # 48 steps of 2 rows of each in the larger bucket, which has no fractions.
  assert [counts[i] for i in (0, 1, 2, 3)] == [24, 48, 24, 24]
  assert [counts[i] for i in range(4, 10)] == [0, 0, 32, 32, 32, 24]
