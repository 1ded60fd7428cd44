import pytest

from sana_jax.data.records import BadRecord, BadRecords
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


def test_one_record_counts_once():
  bad = BadRecords(10, 0.2)
  for _ in range(5):
    bad.add(BadRecord('a.png', 'truncated'))
  bad.add(BadRecord('b.png', 'empty'))
  assert bad.reasons == {'a.png': 'truncated', 'b.png': 'empty'}


def test_the_error_for_too_many_names_the_first_ones():
  bad = BadRecords(100, 0.06)
  for i in range(6):
    bad.add(BadRecord(f'{i}.png', 'truncated'))
  with pytest.raises(UserError) as error:
    bad.add(BadRecord('6.png', 'truncated'))
  assert '7 of 100 records are bad' in str(error.value)
  assert '0.png (truncated)' in str(error.value)
  assert 'and 2 more' in str(error.value)
  assert 'max_bad_fraction' in str(error.value)


def test_a_large_source_is_judged_by_the_records_seen():
  bad = BadRecords(10**12, 0.01)
  with pytest.raises(UserError, match='11 of 1,000 records'):
    for i in range(1000):
      bad.add(BadRecord(str(i), 'x'))


def test_an_invalid_fraction_is_reported():
  with pytest.raises(UserError, match='max_bad_fraction=5'):
    BadRecords(10, 5.0)
