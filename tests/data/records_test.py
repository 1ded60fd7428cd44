import re

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
  assert error.value.key == 'data.max_bad_fraction'
  assert error.value.value == [f'{i}.png' for i in range(7)]
  assert error.value.allowed == '6 or fewer'
  named = re.findall(r'(\d)\.png \(truncated\)', str(error.value))
  assert named == list('01234')


def test_a_large_source_is_judged_by_the_records_seen():
  bad = BadRecords(10**12, 0.01)
  with pytest.raises(UserError) as error:
    for i in range(1000):
      bad.add(BadRecord(str(i), 'x'))
  assert len(error.value.value) == 11 and error.value.allowed == '10 or fewer'


def test_an_invalid_fraction_is_reported():
  with pytest.raises(UserError) as error:
    BadRecords(10, 5.0)
  assert error.value.key == 'data.max_bad_fraction'
  assert error.value.value == 5.0
