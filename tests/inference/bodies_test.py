"""Bodies of requests: their bounds, and what is left of them."""

import asyncio
import json
import time

import pytest

from sana_jax.inference import bodies
from sana_jax.inference.bodies import Refused

pytestmark = pytest.mark.fast

FILE = {'path': '/etc/hostname', 'meta': {'_type': 'gradio.FileData'}}


def receiver(*chunks, end=True):
  """ASGI's receive; without an end, it waits for ever."""
  messages = [
    {'type': 'http.request', 'body': c, 'more_body': True} for c in chunks
  ] + [{'type': 'http.request'}] * end

  async def receive():
    if not messages:
      await asyncio.sleep(60)
    return messages.pop(0)

  return receive


def read(*chunks, length=None, end=True):
  return asyncio.run(bodies.read(receiver(*chunks, end=end), length))


def status(call, *args, **kwargs):
  with pytest.raises(Refused) as raised:
    call(*args, **kwargs)
  assert str(raised.value).isprintable()
  assert len(str(raised.value)) < 100
  return raised.value.status


def test_a_body_may_come_in_parts():
  assert read(b'a', b'', b'b', length=b'2') == b'ab'
  assert read() == b''


@pytest.mark.parametrize(
  'length', [b'99999999', b'9' * 5000, b'-1', b'x', b'1e9', b' 1', '²'.encode()]
)
def test_a_bad_length_is_refused_unread(length):
  assert status(read, length=length, end=False) == 413


def test_a_body_that_is_larger_than_announced_is_refused():
  part = b'x' * (bodies.MOST_BYTES // 4)
  assert status(read, *[part] * 5, length=b'3', end=False) == 413
  assert len(read(*[part] * 4)) == bodies.MOST_BYTES


def test_few_large_bodies_arrive_at_once():
  """Small ones still do, and the places are free again afterwards."""
  large = [b'x' * 2**17] * 3

  async def together():
    waiting = [
      asyncio.create_task(bodies.read(receiver(*large, end=False), None))
      for _ in range(4)
    ]
    await asyncio.sleep(0.05)
    assert await bodies.read(receiver(b'{}'), None) == b'{}'
    with pytest.raises(Refused) as refused:
      await bodies.read(receiver(*large), None)
    for task in waiting:
      task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return refused.value.status

  assert asyncio.run(together()) == 503
  assert len(read(*large)) == 3 * 2**17


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch):
  monkeypatch.setattr(bodies, 'SECONDS', 0.05)
  assert status(read, b'{', end=False) == 408


def test_a_body_whose_client_is_gone_is_given_up():
  async def gone():
    return {'type': 'http.disconnect'}

  assert status(lambda: asyncio.run(bodies.read(gone, None))) == 400


@pytest.mark.parametrize(
  'body',
  [
    b'',
    b'{',
    b'[]',
    b'3',
    b'null',
    b'"x"',
    b'\xff',
    b'{"a": "\\ud800"}',
    b'[' * 100_000,
    b'{"a":' * 50_000,
    b'{"a": ' + b'9' * 5000 + b'}',
  ],
)
def test_a_body_is_an_object(body):
  assert status(bodies.parsed, body) == 400


@pytest.mark.parametrize(
  'part',
  [
    b'{},',
    b'"",',
    b'"a":[],',
    b'[',
    b'"\\"',
    b'"',
    b'\\',
    b'1,',
    b'\x00',
    b' ',
  ],
)
def test_a_body_of_many_values_is_refused_at_once(part):
  body = b'{"data": [' + part * (2**18 // len(part))
  start = time.perf_counter()
  assert status(bodies.parsed, body) == 400
  assert time.perf_counter() - start < 0.1  # Some 0.1 ms; parsing takes 10.


@pytest.mark.parametrize(
  'text', ['"[{' * 6666, '\\' * 20_000, '猫🙂' * 5000, '\0\x1b' * 5000]
)
@pytest.mark.parametrize('escaped', [False, True])
def test_any_prompt_may_stand_in_a_body(text, escaped):
  value = {'prompt': text, 'seed': 1}
  body = json.dumps(value, ensure_ascii=escaped, indent=2).encode()
  assert bodies.parsed(body) == value


def test_only_checked_values_are_left_of_a_request_to_draw():
  got = json.loads(
    bodies.joining(
      {
        'data': ['a', 2, 2.5, None, True],
        'fn_index': 5,
        'trigger_id': 7,
        'session_hash': 'abc',
        'event_data': FILE,
        'oauth_token': 'x',
        'batched': True,
        'event_id': 'x',
        'more': [FILE],
      },
      5,
      5,
    )
  )
  assert got == {
    'data': ['a', 2, 2.5, None, True],
    'fn_index': 5,
    'trigger_id': 7,
    'session_hash': 'abc',
    'event_data': None,
  }


@pytest.mark.parametrize(
  'changes',
  [
    {'data': None},
    {'data': {}},
    {'data': ['a']},
    {'data': ['a'] * 3},
    {'data': 'ab'},
    {'data': [FILE, 1]},
    {'data': [[], 1]},
    {'data': ['a', [[FILE]]]},
    {'data': ['a', float('nan')]},
    {'data': ['a', float('-inf')]},
    {'data': ['a', 2**63]},
    {'data': ['a', 10**400]},
    {'session_hash': None},
    {'session_hash': 'a/b'},
    {'session_hash': ''},
    {'session_hash': 'x' * 65},
    {'session_hash': 'a\n'},
    {'session_hash': FILE},
    {'fn_index': 4},
    {'fn_index': None},
    {'fn_index': True},
    {'fn_index': 5.0},
    {'fn_index': '5'},
    {'trigger_id': FILE},
    {'trigger_id': -1},
    {'trigger_id': 2**31},
    {'trigger_id': '7'},
  ],
)
def test_anything_else_in_a_request_to_draw_is_refused(changes):
  good = {'data': ['a', 1], 'fn_index': 5, 'session_hash': 'abc'}
  assert status(bodies.joining, good | changes, 5, 2) in (400, 403)


def test_only_checked_values_are_left_of_a_request_to_stop():
  good = {'session_hash': 'abc', 'fn_index': 5, 'event_id': '0af', 'x': FILE}
  got = json.loads(bodies.cancelling(good, 5))
  assert got == {k: good[k] for k in ('session_hash', 'fn_index', 'event_id')}
  assert json.loads(bodies.resetting(good)) == {'event_id': '0af'}
  assert status(bodies.cancelling, good | {'event_id': FILE}, 5) == 400
  assert status(bodies.resetting, {}) == 400
