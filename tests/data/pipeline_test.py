import itertools
import time

import numpy as np
import pytest

from sana_jax.data.pipeline import batches
from sana_jax.data.records import BadRecord, BadRecords
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


class Numbers:
  """Records 0 to count - 1, some of them broken."""

  def __init__(self, count, broken=(), error=None):
    self._count = count
    self._broken = broken
    self._error = error or BadRecord('x', 'y')

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    if index in self._broken:
      raise self._error
    return {'index': index, 'x': np.full((2, 2), index, np.float32)}


def rows_of(dataset, steps=None):
  return [
    batch['index'].tolist() for batch in itertools.islice(iter(dataset), steps)
  ]


def flat(lists):
  return list(itertools.chain(*lists))


def test_the_seed_determines_the_order():
  order = lambda seed: rows_of(
    batches(Numbers(40), batch_size=8, seed=seed), 10
  )
  assert order(3) == order(3)
  assert order(3) != order(4)


@pytest.mark.parametrize('ours', [range(3), [1, 6], [7]])
def test_a_host_s_rows_do_not_depend_on_other_hosts(ours):
  source = Numbers(50, broken=(3, 4))
  make = lambda rows: rows_of(
    batches(source, batch_size=8, seed=1, rows=rows, max_bad_fraction=0.1), 20
  )
  assert make(ours) == [[batch[row] for row in ours] for batch in make(None)]


def test_a_source_smaller_than_a_batch_is_repeated():
  (batch,) = rows_of(batches(Numbers(3), batch_size=8, seed=0), 1)
  assert [sorted(batch[:3]), sorted(batch[3:6])] == [[0, 1, 2]] * 2


def test_map_fn_sees_each_example():
  dataset = batches(
    Numbers(4),
    batch_size=2,
    seed=0,
    map_fn=lambda e, bucket: {'y': e['x'] * 2 + bucket},
  )
  index = next(iter(batches(Numbers(4), batch_size=2, seed=0)))['index']
  np.testing.assert_array_equal(
    next(iter(dataset))['y'],
    np.broadcast_to(2.0 * index[:, None, None], (2, 2, 2)),
  )


def test_a_source_with_several_captions_draws_one_for_each_step():
  source = Numbers(9)
  found = itertools.islice(
    iter(
      batches(
        source,
        batch_size=2,
        seed=0,
        read=lambda index, draw: {**source[index], 'draw': draw},
      )
    ),
    4,
  )
  assert [b['draw'].tolist() for b in found] == [[i] * 2 for i in range(4)]


@pytest.mark.parametrize('threads', [0, 3])
@pytest.mark.parametrize('stop', [1, 7])
def test_a_resumed_iterator_continues_where_it_stopped(threads, stop):
  make = lambda: batches(
    Numbers(30, broken=(3, 4)),
    batch_size=4,
    seed=2,
    num_threads=threads,
    max_bad_fraction=0.1,
  )
  whole = rows_of(make(), 20)
  iterator = iter(make())
  for _ in range(stop):
    next(iterator)
  state = iterator.get_state()
  resumed = iter(make())
  resumed.set_state(state)
  rest = [next(resumed)['index'].tolist() for _ in range(20 - stop)]
  assert rest == whole[stop:]


def test_the_iterator_state_does_not_depend_on_the_rows():
  one, other = (
    iter(batches(Numbers(30), batch_size=4, seed=2, rows=rows))
    for rows in ([0], [1, 2, 3])
  )
  for _ in range(5):
    next(one), next(other)
  assert one.get_state() == other.get_state()


@pytest.mark.parametrize(
  'error', [BadRecord('x', 'y'), OSError('truncated'), ValueError('shape')]
)
def test_bad_records_are_replaced_and_counted(error):
  bad = BadRecords(40, 0.1)
  source = Numbers(40, broken=(5, 6), error=error)
  read = flat(rows_of(batches(source, batch_size=4, seed=0, bad=bad), 10))
  good = set(range(40)) - {5, 6}
  assert len(read) == 40 and set(read) == good
  assert len(bad) == (1 if isinstance(error, BadRecord) else 2)


@pytest.mark.parametrize('threads', [0, 2])
def test_too_many_bad_records_stop_the_run_by_name(threads):
  source = Numbers(40, broken=range(0, 40, 2), error=OSError('truncated'))
  with pytest.raises(UserError) as error:
    rows_of(batches(source, batch_size=4, seed=0, num_threads=threads), 20)
  assert error.value.key == 'data.max_bad_fraction'
  assert all(name.startswith('record ') for name in error.value.value)
  assert 'of 40 ' in str(error.value) and 'truncated' in str(error.value)


def test_a_user_error_in_map_fn_is_not_a_bad_record():
  def map_fn(example, bucket):
    raise UserError('too long', key='prompt')

  with pytest.raises(UserError) as error:
    next(iter(batches(Numbers(9), batch_size=2, seed=0, map_fn=map_fn)))
  assert error.value.key == 'prompt'


def test_empty_sources_and_batches_are_reported():
  with pytest.raises(UserError) as error:
    batches(Numbers(0), batch_size=2, seed=0)
  assert (error.value.key, error.value.value) == ('data.path', 0)
  with pytest.raises(UserError) as error:
    batches(Numbers(3), batch_size=0, seed=0)
  assert (error.value.key, error.value.value) == ('batch_size', 0)


def test_the_overhead_is_below_half_a_millisecond_an_example():
  iterator = iter(batches(Numbers(500), batch_size=32, seed=0, num_threads=0))
  next(iterator)
  start = time.process_time()
  for _ in range(20):
    next(iterator)
  assert time.process_time() - start < 20 * 32 / 2000
