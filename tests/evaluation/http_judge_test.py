"""Judges behind a chat API: what they are sent, and whatever they answer."""

import base64
import collections
import contextlib
import http.server
import io
import json
import re
import threading

import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.evaluation import chat, http_judge, scorers

pytestmark = pytest.mark.fast
RED, BLUE = (
  np.full((4, 4, 3), c, np.uint8) for c in ([255, 0, 0], [0, 0, 255])
)
PROMPTS = ['a red square', 'a red square']


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
  monkeypatch.setattr(chat, 'FOLDER', str(tmp_path / 'judges'))
  monkeypatch.setattr(chat.time, 'sleep', lambda seconds: None)


def completion(text, tokens=7):
  choices = [{'message': {'content': text}}]
  return {'choices': choices, 'usage': {'total_tokens': tokens}}


def redness(pngs):
  """What a judge sees: a mean of red from 0 to 100, of each picture."""
  open_ = lambda png: np.asarray(Image.open(io.BytesIO(png)))
  return [round(open_(png)[..., 0].mean() / 2.55) for png in pngs]


@contextlib.contextmanager
def serve(answer):
  """Yields (URL, requests): `answer` of a request is (status, body)."""
  seen = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      size = int(self.headers['Content-Length'])
      body = json.loads(self.rfile.read(size))
      *images, text = body['messages'][0]['content']
      urls = [image['image_url']['url'] for image in images]
      body['pngs'] = [base64.b64decode(url.partition(',')[2]) for url in urls]
      body['question'] = text['text']
      body['path'] = self.path
      body['key'] = self.headers['Authorization']
      seen.append(body)
      status, found = answer(body)
      data = found if isinstance(found, bytes) else json.dumps(found).encode()
      self.send_response(status)
      self.send_header('Content-Length', str(len(data)))
      if status in (302, 307):
        self.send_header('Location', 'http://127.0.0.1:1/elsewhere')
      self.end_headers()
      self.wfile.write(data)

    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(
    target=server.serve_forever, args=(0.01,), daemon=True
  )
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}/v1?model=eye', seen
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


def by_redness(body):
  return 200, completion(f'It is {redness(body["pngs"])[0]}.')


def test_pictures_have_the_scores_of_the_model(monkeypatch):
  monkeypatch.setenv(chat.KEY, 'secret')
  with serve(by_redness) as (url, seen):
    scores = http_judge.make(url)(PROMPTS, np.stack([RED, BLUE]))
  np.testing.assert_array_equal(scores, [100, 0])
  for body in seen:
    assert body['model'] == 'eye' and body['path'] == '/v1/chat/completions'
    assert body['key'] == 'Bearer secret' and PROMPTS[0] in body['question']


def test_answers_are_kept_by_prompt_and_picture():
  with serve(by_redness) as (url, seen):
    http_judge.make(url)(PROMPTS[:1], RED[None])
    judge = http_judge.make(url)
    judge(PROMPTS, np.stack([RED, BLUE]))
    judge(['a blue square'], RED[None])
    assert len(seen) == 3
    assert re.findall(r'\d+', judge.cost()) == ['3', '1', '14']


@pytest.mark.parametrize('kept', [b'', b'{}', b'{"answer": 3}', b'\xff'])
def test_a_damaged_answer_is_asked_for_again(kept, tmp_path):
  with serve(by_redness) as (url, seen):
    http_judge.make(url)(PROMPTS[:1], RED[None])
    (path,) = (tmp_path / 'judges').iterdir()
    path.write_bytes(kept)
    assert http_judge.make(url)(PROMPTS[:1], RED[None]) == [100]
    assert len(seen) == 2


@pytest.mark.parametrize(
  'wins, expected',
  [
    (lambda a, b: a > b, [True, False]),
    (lambda a, b: True, [False, False]),  # It prefers the first picture.
    (lambda a, b: False, [False, False]),
  ],
)
def test_the_first_wins_if_both_orders_say_so(wins, expected):
  def answer(body):
    name = 'First' if wins(*redness(body['pngs'])) else 'second'
    return 200, completion(f'The {name} one')

  with serve(answer) as (url, seen):
    compare = http_judge.make(f'{url}&pairs=1')
    found = compare(PROMPTS, np.stack([RED, BLUE]), np.stack([BLUE, RED]))
  np.testing.assert_array_equal(found, expected)
  # The second pair's orders are those of the first, and may be in the cache.
  assert 2 <= len(seen) <= 4


@pytest.mark.parametrize('status', [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(status):
  tries = collections.Counter()

  def answer(body):
    tries['all'] += 1
    return by_redness(body) if tries['all'] > 2 else (status, b'busy')

  with serve(answer) as (url, _):
    assert http_judge.make(url)(PROMPTS[:1], RED[None]) == [100]
  assert tries['all'] == 3


@pytest.mark.parametrize(
  'answer, count',
  [
    ((503, b''), 3),
    ((401, b'who are you?'), 1),
    ((302, b''), 1),
    ((200, b'<html>'), 1),
    ((200, {'choices': []}), 1),
    ((200, {'choices': [{'message': {'content': None}}]}), 1),
    ((200, completion('5', tokens='many')), 1),
    ((200, b'[' * 100_000), 1),
    ((200, b'x' * 2_000_000), 3),
    ((200, completion('I cannot see pictures.')), 1),
    ((200, completion('-3')), 1),
    ((200, completion('101')), 1),
  ],
)
def test_what_is_no_answer_is_a_user_error_and_is_not_kept(
  answer, count, tmp_path
):
  with (
    serve(lambda body: answer) as (url, seen),
    pytest.raises(UserError) as error,
  ):
    http_judge.make(f'{url}&retries=2')(PROMPTS[:1], RED[None])
  assert error.value.key == '--scorer' and '\n' not in str(error.value)
  assert len(seen) == count
  assert not list(tmp_path.glob('judges/*'))


@pytest.mark.long
def test_a_judge_that_is_down_loses_no_answers():
  with serve(by_redness) as (url, _):
    http_judge.make(url)(PROMPTS[:1], RED[None])
  judge = http_judge.make(f'{url}&retries=1&timeout=5')
  assert judge(PROMPTS[:1], RED[None]) == [100]
  with pytest.raises(UserError):
    judge(PROMPTS[:1], BLUE[None])


@pytest.mark.parametrize(
  'name',
  [
    'https://host/v1',
    'https://host/v1?model=',
    'https:///v1?model=a',
    'https://me:hunter2@host/v1?model=a',
    'https://[::1/v1?model=a',
    'https://host:99999/v1?model=a',
    'https://host/v1?model=a&color=red',
    'https://host/v1?model=a&timeout=soon',
    'https://host/v1?model=a&timeout=nan',
    'https://host/v1?model=a&retries=-1',
    'https://host/v1?model=a&concurrency=0',
    'https://host/v1?model=a&pairs=2',
  ],
)
def test_a_wrong_url_is_refused(name):
  with pytest.raises(UserError) as error:
    http_judge.parse(name)
  assert error.value.key == '--scorer' and 'hunter2' not in str(error.value)


def test_only_the_command_may_name_a_url():
  """Rewards of configs and lines of prompt files go another way."""
  with pytest.raises(UserError):
    scorers.load('https://host/v1?model=a')
