"""Interpretation of pickles: plain data, inert objects, and bounds."""

import argparse
import collections
import contextlib
import io
import pickle
import random
import time

import numpy as np
import pytest

from sana_jax.weights import pickled, pickling, safe_pickle
from sana_jax.weights.pickled import Storage, Tensor
from sana_jax.weights.safe_pickle import described, Inert

pytestmark = pytest.mark.fast

F32 = np.dtype(np.float32)


def load(data):
  return pickled.load(io.BytesIO(data), len(data))


def plain(rng, depth=4):
  """Random dicts, lists, tuples, numbers and text, some of it shared."""
  items = (
    [plain(rng, depth - 1) for _ in range(rng.randrange(6))] if (depth) else []
  )
  return rng.choice(
    [
      {f'k{i} \u20ac': x for i, x in enumerate(items)},
      items,
      tuple(items),
      items + items[:1],
      rng.randrange(-(2**63), 2**63),
      rng.randrange(300),
      -1,
      rng.random() * 10.0 ** rng.randrange(-300, 300),
      'text\n\u20ac\\',
      '',
      None,
      True,
      False,
    ]
  )


@pytest.mark.parametrize('protocol', range(6))
def test_plain_data_equals_pickle_s_result(protocol):
  rng = random.Random(int(np.random.default_rng().integers(2**31)))
  for _ in range(100):
    value = plain(rng)
    assert load(pickle.dumps(value, protocol)).value == value


@pytest.mark.parametrize(
  'value, name',
  [
    (argparse.Namespace(lr=1e-4), 'argparse.Namespace'),
    (len, 'builtins.len'),
    (np.float32, 'numpy.float32'),
    (b'x', 'bytes'),
    (bytearray(5), 'bytes'),
    ({'a'}, 'set'),
    (frozenset('a'), 'frozenset'),
    (collections.defaultdict(list, a=1), 'collections.defaultdict'),
    (collections.deque([1]), 'collections.deque'),
    ('x' * 1001, 'long text'),
    (2**64, 'long number'),
    (-(10**400), 'long number'),
    (slice(3), 'builtins.slice'),
  ],
)
def test_other_objects_are_inert(value, name):
  assert described(load(pickle.dumps(value, 5)).value) == name


@pytest.mark.parametrize(
  'data',
  [
    pickle.dumps(10**5000, 5),
    b'L' + b'9' * 5000 + b'L\n.',
    b'I' + b'9' * 5000 + b'\n.',
  ],
)
def test_an_integer_of_over_4300_digits_is_inert(data):
  assert described(load(data).value) == 'long number'


@pytest.mark.parametrize(
  'data, name',
  [
    (b'(X\x01\x00\x00\x00xiposix\nsystem\n.', 'posix.system'),
    (b'(cposix\nsystem\no.', 'posix.system'),
    (b'\x80\x02\x82\x01.', 'extension.1'),
    (b'\x80\x02ccollections\nOrderedDict\n)\x81.', 'collections.OrderedDict'),
    (b'\x80\x02ctorch\nFloatStorage\n}b.', 'torch.FloatStorage'),
    (b'\x80\x04\x8c\x05posix\x8c\x06system\x93.', 'posix.system'),
    (
      b'\x80\x02ccollections\nOrderedDict.system\n.',
      'collections.OrderedDict.system',
    ),
    (b'cposix\nsystem\n(Vtrue\ntR.', 'posix.system'),
    (b'Pid\n.', 'object'),
    (b'K\x01Q.', 'storage of another kind'),
  ],
)
def test_every_reference_to_code_becomes_a_name(data, name):
  assert described(load(data).value) == name


def test_a_limited_number_of_unknown_names_is_kept():
  names = [f'c{i}\nx\n0' for i in range(50)]
  got = load(''.join(['ctorch\nSize\n0', *names, 'N.']).encode()).names
  assert got == tuple(f'{i}.x' for i in range(20))


@pytest.mark.parametrize(
  'data, position',
  [
    (b'\x80\x02(' + b'K\x01t(' * 9 + b'.', 40),
    (b'\x80\x02X\xff\xff\xff\x7fabc.', 7),
    (b'\x80\x02\x8a\xffabc.', 4),
    (b'\x8b\xff\xff\xff\xffabc.', 5),
    (b'\x80\x02K\x01K\x02R.', 7),
    (b'cposix\nsystem\nNR.', 16),
    (b'\x80\x02K\x01K\x02a.', 7),
    (b'}K\x01K\x02K\x03sa.', 8),
    (b'\x80\x02}(K\x01u.', 7),
    (b'\x80\x02\xff.', 3),
    (b'K\x01K\x02\x93.', 5),
    (b'ccollections\nOrderedDict\n](K\x01eq\x00\x85R.', 34),
    (b'h\x07.', 2),
    (b'}b.', 2),
    (b'I1' + b'0' * 10**5, 2**16 + 1),
    (b'\x80\x02}', 3),
    (b'.', 1),
    (b'', 0),
  ],
)
def test_a_broken_pickle_is_refused(data, position):
  with pytest.raises(safe_pickle.Refused) as error:
    load(data)
  assert error.value.position == position


def doubled(times):
  return b')' + b'q\x00h\x00\x86' * times


@pytest.mark.parametrize(
  'data',
  [
    b'}' + doubled(60) + b'Ns.',
    b'}' + b')' + b'\x85' * 10**5 + b'Ns.',
    b'Nr\xff\xff\xff\xff.',
    b']q\x00h\x00a.',
    b'}q\x00X\x01\x00\x00\x00xh\x00s.',
    doubled(60) + b'.',
    b'('
    + b'N' * 10**5
    + b'tq\x000'
    + (b'ctorch\nSize\nh\x00\x85R0' * 10**4)
    + b'N.',
    b']q\x00('
    + b'](K\x01K\x02e' * 10**3
    + b'e0'
    + (b'ccollections\nOrderedDict\nh\x00\x85R0' * 10**3)
    + b'N.',
  ],
)
def test_the_time_is_linear_in_the_size_of_a_pickle(data):
  began = time.process_time()
  with contextlib.suppress(safe_pickle.Refused):
    assert len(described(load(data).value)) < 300
  assert time.process_time() - began < 5


def test_a_pickle_of_too_many_operations_is_refused(monkeypatch):
  monkeypatch.setattr(safe_pickle, 'MOST_OPERATIONS', 100)
  assert load(b'N0' * 49 + b'N.').value is None
  with pytest.raises(safe_pickle.Refused) as error:
    load(b'N0' * 50 + b'N.')
  assert error.value.position == 100


def test_keys_that_are_not_text_share_one_entry():
  got = load(pickle.dumps({1: 2, 'a': 3, (4, 5): 6, 2**61 - 1: 7}, 2)).value
  assert got == {'a': 3, safe_pickle.OTHER_KEYS: 7}


def test_a_tensor_with_an_invalid_size_is_inert():
  tensor = Tensor(Storage(F32, '0', 12), 0, (3, 4), (4, 1))
  data = pickling.dumps({'w': tensor}, 'x')
  assert load(data).value == {'x': {'w': tensor}}
  for old, new in (
    (b'J\x03\0\0\0', b'J\xff\xff\xff\xff'),
    (b'J\x03\0\0\0', b'N'),
    (b'J\x03\0\0\0', b'\x88'),
    (b'J\x03\0\0\0', b'\x8a\x08' + b'\xff' * 7 + b'\x7f'),
    (b'J\x03\0\0\0', b'(' + b'K\x01' * 99 + b't'),
    (b'J\x03\0\0\0', b''),
  ):
    assert old in data
    assert load(data.replace(old, new)).value == {'x': {'w': pickled.TENSOR}}


def test_random_pickles_are_read_or_refused():
  rng = np.random.default_rng()
  whole = pickling.dumps(
    {'w': Tensor(Storage(F32, '0', 12), 0, (3, 4), (4, 1))}, 'state_dict'
  )
  for _ in range(2000):
    data = bytearray(whole)
    for place in rng.integers(len(data), size=rng.integers(1, 4)):
      data[place] = rng.integers(256)
    with contextlib.suppress(safe_pickle.Refused):
      load(bytes(data))


def test_an_inert_name_is_escaped():
  assert str(Inert('a\x1b', 'b\n')) == 'a\\x1b.b\\n'
