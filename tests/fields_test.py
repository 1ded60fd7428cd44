"""Types and ranges of fields, and one short message for all invalid values."""

import math

import pytest

from sana_jax import fields
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'field, right, wrong',
  [
    (fields.integer(1, 8), [1, 8], [0, 9, True, 1.0, '1', None, 10**400]),
    (
      fields.number(0, 8),
      [0, 8.0, -0.0],
      [9, math.nan, math.inf, True, '1', 10**400, -1e-9],
    ),
    (fields.FLAG, [True, False], [0, 1, None, 'true']),
    (fields.choice('a', 'b'), ['a'], ['c', ['a'], None, {}]),
    (fields.text(3), ['x', 'xyz'], ['', 'long', 7, ['x']]),
    (
      fields.list_of(fields.integer(0, 1), 1, 2),
      [[0], (1, 1)],
      [[], [0, 0, 0], [2], [True], 'ab', {0: 1}],
    ),
    (fields.either(fields.NULL, fields.FLAG), [None, True], [0, 'x']),
  ],
)
def test_a_field_allows_only_its_values(field, right, wrong):
  assert all(map(field.test, right))
  assert not any(map(field.test, wrong))


def test_all_invalid_values_are_in_one_short_message():
  deep = []
  for _ in range(5_000):
    deep = [deep]
  values = {'a': 'x' * 10**7, 'b': deep, 'c': '\x1b[2J\n', 'd': True, 'e': 5}
  with pytest.raises(UserError) as caught:
    fields.check(
      'x.json', values, dict.fromkeys('abcdef', fields.integer(1, 5))
    )
  message = str(caught.value)
  assert message.startswith('x.json: a is ') and len(message) < 1000
  assert '\x1b' not in message and '\n' not in message
  assert 'd is True, allowed is a whole number from 1 to 5' in message
  assert 'e is' not in message and 'f is' not in message
  assert (caught.value.key, caught.value.value) == ('a', values['a'])
  assert caught.value.allowed == 'a whole number from 1 to 5'


def test_unknown_keys_are_counted():
  with pytest.raises(UserError, match='95') as error:
    fields.check_known('x.json', {f'k{i}': 1 for i in range(100)}, ())
  assert (error.value.key, error.value.allowed) == ('k0', ())
