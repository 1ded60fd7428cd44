import itertools
import time

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sana_jax.data.pipeline import batches
from sana_jax.data.records import BadRecord, BadRecords
from sana_jax.errors import UserError


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


def rows(dataset, steps=None):
  return [batch['index'].tolist()
          for batch in itertools.islice(iter(dataset), steps)]


def flat(lists):
  return list(itertools.chain(*lists))


def test_the_seed_decides_the_order():
  order = lambda seed: rows(batches(Numbers(40), batch_size=8, seed=seed), 10)
  assert order(3) == order(3)
  assert order(3) != order(4)


def test_every_pass_is_complete_and_has_its_own_order():
  read = flat(rows(batches(Numbers(30), batch_size=10, seed=0), 6))
  first, second = read[:30], read[30:]
  assert sorted(first) == sorted(second) == list(range(30))
  assert first != second and first != list(range(30))
  # Nor is a pass the first one of the next seed.
  assert second != flat(rows(batches(Numbers(30), batch_size=10, seed=1), 3))


def test_without_shuffling_the_order_is_the_source_s():
  read = rows(batches(Numbers(5), batch_size=2, seed=0, shuffle=False), 4)
  assert read == [[0, 1], [2, 3], [4, 0], [1, 2]]


@pytest.mark.parametrize('count', [2, 4])
def test_the_global_batch_does_not_depend_on_the_number_of_hosts(count):
  one = rows(batches(Numbers(50), batch_size=8, seed=1), 20)
  hosts = [rows(batches(Numbers(50), batch_size=8 // count, seed=1,
                        process_index=i, process_count=count), 20)
           for i in range(count)]
  assert one == [flat(parts) for parts in zip(*hosts)]


@pytest.mark.parametrize('total', [1, 11, 24, 29])
def test_one_pass_is_split_into_disjoint_and_complete_shares(total):
  shares = [flat(rows(batches(Numbers(total), batch_size=3, seed=1,
                              repeat=False, process_index=i,
                              process_count=4))) for i in range(4)]
  assert sorted(flat(shares)) == list(range(total))


def test_a_source_smaller_than_a_batch_is_repeated():
  (batch,) = rows(batches(Numbers(3), batch_size=8, seed=0), 1)
  assert [sorted(batch[:3]), sorted(batch[3:6])] == [[0, 1, 2]] * 2


def test_map_fn_sees_each_example():
  dataset = batches(Numbers(4), batch_size=2, seed=0, shuffle=False,
                    map_fn=lambda e: {'y': e['x'] * 2})
  batch = next(iter(dataset))
  np.testing.assert_array_equal(batch['y'], [np.zeros((2, 2)),
                                             np.full((2, 2), 2.)])


@pytest.mark.parametrize('threads', [0, 3])
@pytest.mark.parametrize('stop', [1, 7])
def test_a_resumed_iterator_goes_on_where_it_stopped(threads, stop):
  make = lambda: batches(Numbers(30, broken=(3, 4)), batch_size=4, seed=2,
                         num_threads=threads, max_bad_fraction=.1)
  whole = rows(make(), 20)
  iterator = iter(make())
  for _ in range(stop):
    next(iterator)
  state = iterator.get_state()
  resumed = iter(make())
  resumed.set_state(state)
  rest = [next(resumed)['index'].tolist() for _ in range(20 - stop)]
  assert rest == whole[stop:]


def test_orbax_saves_and_restores_the_position(tmp_path):
  make = lambda: batches(Numbers(30), batch_size=4, seed=2)
  whole = rows(make(), 12)
  iterator = iter(make())
  with ocp.CheckpointManager(tmp_path) as manager:
    for step in range(1, 6):
      next(iterator)
      manager.save(step, args=ocp.args.Composite(
        data=grain.checkpoint.CheckpointSave(iterator)))
    manager.wait_until_finished()
  with ocp.CheckpointManager(tmp_path) as manager:
    restored = manager.restore(3, args=ocp.args.Composite(
      data=grain.checkpoint.CheckpointRestore(iter(make()))))
  rest = [next(restored.data)['index'].tolist() for _ in range(9)]
  assert rest == whole[3:]


@pytest.mark.parametrize('error', [
  BadRecord('x', 'y'), OSError('truncated'), ValueError('shape')])
def test_bad_records_are_skipped_and_counted(error):
  bad = BadRecords(40, .1)
  source = Numbers(40, broken=(5, 6), error=error)
  read = flat(rows(batches(
    source, batch_size=4, seed=0, repeat=False, bad=bad)))
  assert sorted(read) == sorted(set(range(40)) - {5, 6})
  assert len(bad) == (1 if isinstance(error, BadRecord) else 2)


@pytest.mark.parametrize('threads', [0, 2])
def test_too_many_bad_records_stop_the_run_by_name(threads):
  source = Numbers(40, broken=range(0, 40, 2), error=OSError('truncated'))
  with pytest.raises(UserError, match=r'\d of 40 .*record .*truncated'):
    rows(batches(source, batch_size=4, seed=0, num_threads=threads), 20)


def test_a_user_s_mistake_in_map_fn_is_not_a_bad_record():
  def map_fn(example):
    raise UserError('too long')
  with pytest.raises(UserError) as error:
    next(iter(batches(Numbers(9), batch_size=2, seed=0, map_fn=map_fn)))
  assert str(error.value) == 'too long'


def test_empty_sources_and_batches_are_explained():
  with pytest.raises(UserError, match='empty'):
    batches(Numbers(0), batch_size=2, seed=0)
  with pytest.raises(UserError, match='batch_size=0'):
    batches(Numbers(3), batch_size=0, seed=0)


def test_the_overhead_is_below_half_a_millisecond_an_example():
  iterator = iter(batches(Numbers(500), batch_size=32, seed=0, num_threads=0))
  next(iterator)
  start = time.process_time()
  for _ in range(20):
    next(iterator)
  assert time.process_time() - start < 20 * 32 / 2000
