""".pth files with code or objects besides tensors: refused, or skipped."""

import argparse
import collections
import datetime
import os
import pickle
import struct

import numpy as np
from pth_files import archive, lazy, some_tensors, W
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import pickling, pth, wrapped

pytestmark = pytest.mark.fast


class _Runs:
  """Object that pickles into a call of `function`, as in exploits."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def hostile(target):
  touch = f'touch {target}'
  code = f'open({str(target)!r}, "w").close()'
  return {
    'posix.system': {'state_dict': _Runs(os.system, touch)},
    'builtins.eval': _Runs(eval, code),
    'builtins.exec': {
      'state_dict': {},
      'epoch': 3,
      'notes': {'deep': [1, (2, {'er': _Runs(exec, code)})]},
    },
  }


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('name', hostile(''))
def test_a_file_that_would_run_code_is_refused_by_name(
  tmp_path, name, protocol
):
  data = pickle.dumps(hostile(tmp_path / 'ran')[name], protocol)
  pickle.loads(data)  # It is a real one.
  os.remove(tmp_path / 'ran')
  archive(tmp_path / 'x.pth', {'data.pkl': data})
  named = name.replace('builtins', '(builtins|__builtin__)')
  with pytest.raises(UserError, match=named) as e:
    pth.read(tmp_path / 'x.pth')
  assert not (tmp_path / 'ran').exists()
  assert e.value.allowed in (wrapped.KEYS, 'tensors') and '\n' not in str(
    e.value
  )


def one_entry_more(path, key, value, protocol=2, within=False):
  """File of a state_dict with a tensor w, and another entry beside or in it."""
  model = pickling.dumps({'w': W}, 'state_dict')[2:-1]
  more = (
    b'X'
    + struct.pack('<I', len(key))
    + key.encode()
    + pickle.dumps(value, protocol)[2:-1]
    + b's'
  )
  body = model[:-1] + more + b's' if within else model + more
  archive(
    path,
    {
      'data.pkl': b'\x80\x02' + body + b'.',
      'data/0': np.arange(12, dtype=np.float32).tobytes(),
    },
  )
  return path


def left_out(caplog):
  """The single log line."""
  (record,) = caplog.records
  return record.getMessage()


def random_state():
  return {
    'python': (3, tuple(range(625)), None),
    'numpy': ('MT19937', np.arange(4, dtype=np.uint32), 624, 0, 0.0),
  }


def test_code_besides_a_model_is_listed_and_not_run(tmp_path, caplog):
  touch = f'touch {tmp_path / "ran"}'
  path = one_entry_more(
    tmp_path / 'x.pth',
    'notes',
    {'deep': [1, (2, {'er': _Runs(os.system, touch)})]},
  )
  assert list(pth.read(path)) == ['w']
  assert not (tmp_path / 'ran').exists()
  assert 'notes (dict)' in left_out(caplog)
  assert 'posix.system' in left_out(caplog)


@pytest.mark.parametrize('protocol', [2, 3])
@pytest.mark.parametrize('within', [False, True])
def test_other_content_of_a_trainer_s_checkpoint_is_listed(
  tmp_path, caplog, protocol, within
):
  path = one_entry_more(
    tmp_path / 'x.pth',
    'rest',
    {
      'epoch': 4,
      'random': random_state(),
      'args': argparse.Namespace(lr=1e-4),
      'dtype': np.dtype(np.float32),
      'when': datetime.datetime(2026, 1, 1),
      'names': {'a', 'b'},
      'counts': collections.Counter('hello'),
      'function': os.path.join,
      'bytes': b'x' * 5000,
      'text': 'x' * 5000,
    },
    protocol,
    within,
  )
  got = pth.read(path)
  np.testing.assert_array_equal(got['w'].read(), [[2, 6, 10], [3, 7, 11]])
  assert list(got) == ['w'] and 'rest (dict)' in left_out(caplog)
  assert 'argparse.Namespace' in left_out(caplog)


def test_objects_are_listed_by_their_class(tmp_path, caplog):
  pth.read(one_entry_more(tmp_path / 'x.pth', 'args', argparse.Namespace()))
  assert 'args (argparse.Namespace)' in left_out(caplog)


def test_a_file_of_a_model_alone_logs_nothing(tmp_path, caplog):
  pth.write(tmp_path / 'x.pth', lazy(some_tensors()))
  pth.read(tmp_path / 'x.pth')
  assert not caplog.records


def test_listed_names_are_escaped_and_truncated(tmp_path, caplog):
  name = '\x1b[2J\n' + 'x' * 900
  pth.read(one_entry_more(tmp_path / 'x.pth', name, 1))
  line = left_out(caplog)
  assert '\\x1b[2J\\n' in line and line.isprintable() and len(line) < 1000


def test_an_unprintable_name_is_not_that_of_a_tensor(tmp_path, caplog):
  data = pickling.dumps({'\x1b[2J': W, 'w': W}, 'state_dict')
  archive(
    tmp_path / 'x.pth',
    {'data.pkl': data, 'data/0': np.arange(12, dtype=np.float32).tobytes()},
  )
  assert list(pth.read(tmp_path / 'x.pth')) == ['w']
  assert '\\x1b[2J (tensor)' in left_out(caplog)
