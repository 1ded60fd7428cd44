"""Hostile requests to the demo, over every route of Gradio and every input.

No request may read a file (here: one with a secret word), write one, reach
another machine, or stop the demo.
"""

import importlib.util
import itertools
import json
import os
import pathlib
import re
import tempfile

import pytest
from starlette.testclient import TestClient

from sana_jax.inference import page

pytestmark = pytest.mark.long

_spec = importlib.util.spec_from_file_location(
  'demo_server', pathlib.Path(__file__).with_name('demo_server.py')
)
demo_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo_server)
ASKED = demo_server.ASKED
SECRET = b'CANARY-7c1d'
# Scalars of odd kinds; a text of half a surrogate pair among them.
SCALARS = [
  None,
  True,
  -1,
  0,
  2.5,
  1e308,
  10**18,
  10**40,
  '',
  'x',
  '\0\x1b[2J',
  '\ud83d',
  '\u202e',
  '猫🙂',
  '../../etc/passwd',
  'http://[::1]/',
  '<b>',
  '%2e%2e%2f',
  'x' * 20_001,
]


@pytest.fixture(scope='module')
def demo():
  with demo_server.running() as demo:
    assert demo.draw(seconds=300).status == 200  # Compiled once.
    yield demo


@pytest.fixture(scope='module')
def secrets(tmp_path_factory):
  """Paths that a request may name; a device and a fifo never end."""
  folder = tmp_path_factory.mktemp('secret')
  (folder / 'secret.txt').write_bytes(SECRET)
  (folder / 'secret.svg').write_bytes(b'<svg>' + SECRET + b'</svg>')
  os.mkfifo(folder / 'fifo')
  return [
    *(str(folder / x) for x in ('secret.txt', 'secret.svg', 'fifo')),
    '/dev/zero',
    str(folder),
    f'file://{folder}/secret.txt',
    'http://127.0.0.1:9/secret',
    'https://192.0.2.1/secret',
  ]


@pytest.fixture
def nothing_is_copied():
  def files():
    return {p for p in pathlib.Path(tempfile.gettempdir()).glob('**/gradio/**')}

  before = files()
  yield
  assert files() == before
  assert not os.path.lexists(page.NOWHERE)


def file_data(rng, secrets):
  """A description of a file, in one of the ways that Gradio has for it."""
  path = rng.choice(secrets)
  return rng.choice(
    [
      {'path': path, 'meta': {'_type': 'gradio.FileData'}},
      {'path': path, 'url': path, 'meta': {'_type': 'gradio.FileData'}},
      {'path': path, 'is_stream': True, 'meta': {'_type': 'gradio.FileData'}},
      {'path': path, 'orig_name': 'x.png', 'size': 1, 'mime_type': 'image/png'},
      {'url': path},
      {'name': path, 'is_file': True, 'data': None},
      {
        'image': {'path': path, 'meta': {'_type': 'gradio.FileData'}},
        'caption': None,
      },
      [{'path': path, 'meta': {'_type': 'gradio.FileData'}}],
      {'__type__': 'update', 'value': path},
      {'_type': 'gradio.FileData'},
    ]
  )


def hostile_data(rng, secrets):
  """Inputs of the page, one to three of them replaced."""
  data = list(ASKED)
  for _ in range(rng.randint(1, 3)):
    data[rng.randrange(len(data))] = (
      file_data(rng, secrets) if rng.random() < 0.6 else rng.choice(SCALARS)
    )
  return data


def hostile_body(rng, secrets, event):
  """A body as the page sends it, or nearly so."""
  data = hostile_data(rng, secrets)
  shaped = {
    'data': data,
    'fn_index': event,
    'session_hash': 'abc',
    'trigger_id': 7,
    'event_data': None,
  }
  shaped[rng.choice(list(shaped))] = rng.choice(
    [data, file_data(rng, secrets), *SCALARS]
  )
  deep = b'[' * 50_000 + b']' * 50_000
  return rng.choice(
    [
      json.dumps(shaped).encode(),
      json.dumps(data).encode(),
      json.dumps({'data': [data] * 9, 'session_hash': 'abc'}).encode(),
      json.dumps(file_data(rng, secrets)).encode(),
      b'',
      b'{',
      b'\xff\xfe',
      b'{"data": ' + deep + b'}',
      b'{"data": [' + b'9' * 5000 + b']}',
      b'{"a": 1, "a": NaN}',
      b'{"data": "' + b'x' * 2**19 + b'"}',
      b'x' * 2**22,
    ]
  )


def routes(demo):
  """(method, path with parameters filled in) of Gradio and FastAPI."""
  return [
    (method, path)
    for path, methods in demo.routes()
    for method in sorted(methods | {'POST', 'PUT', 'DELETE'})
  ]


def filled(rng, path, secrets):
  """The path with each parameter replaced by something hostile."""
  return re.sub(
    r'{[^}]+}',
    lambda match: rng.choice(
      [
        rng.choice(secrets),
        rng.choice(secrets).lstrip('/'),
        '0',
        'draw',
        'abc',
        '../' * 9 + 'etc/passwd',
        '%2e%2e%2f' * 9 + 'etc/passwd',
        '..%5c' * 5 + 'x',
      ]
    ),
    path,
  )


def test_every_route_of_gradio_keeps_every_file(
  demo,
  secrets,
  hostile,
  nothing_is_copied,
):
  every = routes(demo)
  assert len(every) > 200
  cases = hostile.cases(len(every), 12 * len(every))
  for rng, (method, path) in zip(cases, itertools.cycle(every)):
    secret = rng.choice(secrets)
    path = filled(rng, path, secrets) + rng.choice(
      ['', f'?deep_link={secret}', '?session_hash=abc', f'?file={secret}']
    )
    endless = path.startswith(('/gradio_api/heartbeat', '/gradio_api/queue/d'))
    answer = demo.send(
      method,
      path.replace(' ', '%20'),
      hostile_body(rng, secrets, demo.event),
      {'Origin': demo.root},
      read=not endless,
    )
    assert SECRET not in answer.body
    assert answer.status != 500
    assert b'Traceback' not in answer.body
  assert demo.draw().status == 200


def test_every_input_of_the_page_keeps_every_file(
  demo,
  secrets,
  hostile,
  nothing_is_copied,
):
  for rng in hostile.cases(15, 600):
    with demo.page() as page:
      answer = page.join(hostile_data(rng, secrets))
      assert answer.status in (200, 400, 413)
      text = (
        answer.body
        if answer.status != 200
        else json.dumps(list(page.events())).encode()
      )
      assert SECRET not in text
      assert b'Traceback' not in text
      assert b'/dev/' not in text


def test_every_key_of_the_json_route_keeps_every_file(
  demo,
  secrets,
  hostile,
  nothing_is_copied,
):
  keys = (
    'prompt',
    'negative_prompt',
    'width',
    'height',
    'steps',
    'guidance_scale',
    'seed',
    'num_images',
    'sampler',
  )
  for rng in hostile.cases(60, 600):
    body = hostile_body(rng, secrets, demo.event)
    if rng.random() < 0.8:
      body = json.dumps(dict(zip(keys, hostile_data(rng, secrets)))).encode()
    answer = demo.send('POST', '/api/draw', body)
    assert answer.status in (0, 200, 400, 413)
    assert SECRET not in answer.body
    if answer.status == 400:
      assert answer.json['detail'].isprintable()
      assert len(answer.json['detail']) < 1500


def test_gradio_itself_refuses_files_that_were_not_uploaded(demo, secrets):
  # Were the guard to let a description of a file pass.
  for path in secrets[:2]:
    data = [{'path': path, 'meta': {'_type': 'gradio.FileData'}}, *ASKED[1:]]
    with TestClient(demo.guard.app, 'http://localhost') as client:
      answer = client.post(
        '/gradio_api/run/predict',
        json={'data': data, 'fn_index': demo.event, 'session_hash': 'abc'},
      )
      assert answer.status_code == 500
      assert SECRET not in answer.content
      found = client.get(f'/gradio_api/file={path}')
      assert found.status_code == 403
  assert not os.path.lexists(page.NOWHERE)


@pytest.mark.parametrize(
  'path',
  [
    '/docs',
    '/redoc',
    '/openapi.json',
    '/gradio_api/openapi.json',
    '/config',
    '/gradio_api/info',
    '/gradio_api/deep_link',
    '/gradio_api/file=/etc/hostname',
    '/gradio_api/proxy=http://127.0.0.1:9/',
    '/monitoring',
    '/gradio_api/runs',
    '/gradio_api/stream/a/b/0/playlist-file',
    '/login',
    '/gradio_api/upload',
    '/gradio_api/app_id',
    '/static/../../app.py',
    '/assets/%2e%2e/index.html',
    '/gradio_api/custom_component/a/client/b/c',
    '//',
    '/?',
    '/gradio_api//info',
  ],
)
def test_what_the_page_does_not_need_is_no_page(demo, path):
  assert demo.send('GET', path).status == (200 if path == '/?' else 404)


def test_a_deep_link_in_the_address_is_ignored(demo, secrets):
  plain = demo.send('GET', '/').body
  link = demo.send('GET', f'/?deep_link={secrets[0]}&__theme=dark').body
  assert link == plain
