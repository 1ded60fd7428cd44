"""Warnings of compilers are kept; plans are cached by their content."""

import json

import pytest

from sana_jax import config as base
from sana_jax.tools.plan import cache, runner

STDERR = """W1121 16:15:45.972463   20839 hlo_rematerialization.cc:3231] Can't \
reduce memory use below 14.82GiB by rematerialization; only reduced to 28 GiB
E1121 16:01:18.503129   31033 slow_operation_alarm.cc:73] Very slow compile?
W0000 00:00:00.000000    1234 spmd_partitioner.cc:10] [SPMD] Involuntary full \
rematerialization. The compiler cannot go from sharding {a} to {b}
W0000 00:00:00.000000    1234 spmd_partitioner.cc:10] [SPMD] Involuntary full \
rematerialization. The compiler cannot go from sharding {a} to {b}
"""


def test_warnings_of_memory_are_kept_once_each():
  first, second = runner.warnings_in(STDERR)
  assert first.startswith("Can't reduce memory use below 14.82GiB")
  assert second.startswith('[SPMD] Involuntary full rematerialization.')


def request(**changes):
  config = base.train('sana').to_dict() | changes
  return {
    'config': json.loads(json.dumps(config)),
    'topology': 'v5e:4x4',
    'layout': 'fsdp',
    'mode': 'train',
  }


@pytest.mark.long
def test_a_key_follows_from_what_changes_a_program():
  key = cache.key(request())
  assert cache.key(request()) == key
  assert cache.key(request() | {'layout': 'another name'}) == key
  assert cache.key(request(log_every_steps=7, seed=3)) == key
  for changed in (
    request(batch_size=64),
    request(dtype='bfloat16'),
    request() | {'topology': 'v5e:8x8'},
    request() | {'mode': 'sample'},
  ):
    assert cache.key(changed) != key


@pytest.mark.long
@pytest.mark.parametrize(
  'module, name', [(cache, 'sources'), (cache, 'compilers')]
)
def test_another_compiler_or_source_is_another_program(
  module, name, monkeypatch
):
  key = cache.key(request())
  monkeypatch.setattr(module, name, lambda: 'other')
  assert cache.key(request()) != key


@pytest.mark.parametrize(
  'damage',
  [b'{"a"', b'', b'[]', b'{}', b'\xff', b'[' * 10**5, b'1' * 5000, None],
)
def test_a_corrupt_plan_is_ignored(tmp_path, damage):
  cache.write(tmp_path, 'x', {'a': 1})
  assert cache.read(tmp_path, 'x') == {'a': 1}
  whole = (tmp_path / 'x.json').read_bytes()
  # None is one digit that changed.
  (tmp_path / 'x.json').write_bytes(
    whole.replace(b'"a": 1', b'"a": 2') if damage is None else damage
  )
  assert cache.read(tmp_path, 'x') is None
