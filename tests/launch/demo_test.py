"""sana-jax demo: its flags, and its server's API."""

import base64
import concurrent.futures
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[2]
ASKED = {
  'prompt': 'a red circle',
  'width': 16,
  'height': 16,
  'steps': 2,
  'guidance_scale': 4.5,
  'seed': 5,
  'num_images': 2,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Folder of the server's temporary files."""
  return tmp_path_factory.mktemp('temporary')


@pytest.fixture(scope='module')
def server(served, tiny_sana, folder):
  """Starts a server with as many devices as `sample` has in this process."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TMPDIR', str(folder))
    return served(tiny_sana, '--cpu-devices', '8', '--max-steps', '1000')


def get(server, path, data=None):
  request = urllib.request.Request(
    server.address + path, data, {'Content-Type': 'application/json'}
  )
  with urllib.request.urlopen(request, timeout=60) as response:
    return response.read()


def answer(server, request):
  """The answer of the JSON interface: (status, content)."""
  try:
    return 200, json.loads(
      get(server, '/api/draw', json.dumps(request).encode())
    )
  except urllib.error.HTTPError as refused:
    with refused:
      return refused.code, json.loads(refused.read())


def test_programs_get_the_bytes_of_sample(server, cli, tiny_sana, tmp_path):
  status, content = answer(server, ASKED)
  assert status == 200
  assert content['report'].startswith('2 pictures in ')
  assert (
    cli(
      'sample',
      '--model',
      tiny_sana,
      '--prompt',
      'a red circle',
      '--height',
      16,
      '--width',
      16,
      '--steps',
      2,
      '--seed',
      5,
      '--num-images',
      2,
      '--out',
      tmp_path,
    )[0]
    == 0
  )
  for k, picture in enumerate(content['pictures']):
    assert picture['name'] == f'a-red-circle-5-{k}.png'
    assert (
      base64.b64decode(picture['png'])
      == (tmp_path / f'00000-{k}-a-red-circle.png').read_bytes()
    )


@pytest.mark.parametrize(
  'changes, expected',
  [
    ({'prompt': ''}, 'prompt is empty; describe a picture.'),
    ({'width': 10**6}, 'width is 1000000; give a whole number from 4 to 64.'),
    ({'width': 'wide'}, "width is 'wide'; give a whole number from 4 to 64."),
    ({'steps': None}, 'steps is missing; give a whole number from 1 to 1000.'),
    ({'num_images': 99}, 'num_images is 99; give a whole number from 1 to 4.'),
    ({'sampler': '<b>'}, "sampler is '<b>'; allowed are euler"),
    ({'prompt': {'path': '/etc/hostname'}}, 'prompt is an object; give text.'),
    ({'size': 16}, "Unknown key 'size'; allowed are prompt, "),
  ],
)
def test_programs_get_an_error_for_bad_input(server, changes, expected):
  status, error = answer(server, ASKED | changes)
  assert status == 400
  assert error['detail'].startswith(expected)
  assert 'Traceback' not in server.log.read_text()


def test_the_example_of_the_docs_runs(server, tmp_path):
  docs = (ROOT / 'docs/demo.md').read_text()
  code = docs.split('```python\n')[1].split('```')[0]
  assert 'http://127.0.0.1:7860' in code
  code = code.replace('http://127.0.0.1:7860', server.address).replace(
    '128', '16'
  )
  subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'a-red-circle-0-0.png',
    'a-red-circle-0-1.png',
  ]


def test_the_browser_may_load_nothing_from_elsewhere(server):
  with urllib.request.urlopen(server.address, timeout=60) as page:
    policy = page.headers['content-security-policy']
  assert policy.startswith("default-src 'self' ")
  assert 'http' not in policy


def test_a_taken_port_is_reported_before_the_model_is_read(refused):
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    message = refused('demo', '--model', 'none', '--port', port)
  assert (message.key, message.error.value) == ('--port', port)


def test_two_controlnets_are_reported_before_the_model_is_read(refused):
  nets = '--controlnet', 'a', '--controlnet', 'b'
  message = refused('demo', '--model', 'none', '--port', 0, *nets)
  assert (message.key, message.error.value) == ('--controlnet', 2)


def test_a_port_taken_while_the_model_is_read_is_a_user_error():
  from sana_jax.errors import UserError
  from sana_jax.launch import demo

  with demo.listening('127.0.0.1', 0) as door:
    port = door.getsockname()[1]
    with demo.listening('127.0.0.1', port) as other:
      other.listen()
      with pytest.raises(UserError) as error:
        demo.announce(door, [])
  assert (error.value.key, error.value.value) == ('--port', port)


@pytest.mark.parametrize(
  'flag, value, key',
  [
    ('--host', 'no such host', 'host'),
    ('--host', 'nowhere.invalid', '--host'),
    ('--max-size', '3', '--max-size'),
    ('--max-steps', '0', '--max-steps'),
    ('--max-queue', 'x', '--max-queue'),
    ('--allow-host', 'http://a', 'host'),
    ('--allow-host', 'a:80', 'host'),
  ],
)
def test_a_bad_flag_is_reported(refused, tiny_sana, flag, value, key):
  argv = 'demo', '--model', tiny_sana, '--port', 0
  message = refused(*argv, flag, value)
  assert message.key == key and value in message


@pytest.mark.parametrize(
  'host, warned', [('127.0.0.1', False), ('0.0.0.0', True)]
)
def test_other_machines_are_let_in_with_a_warning(capsys, host, warned):
  from sana_jax.launch import demo

  with demo.listening(host, 0) as door:
    demo.announce(door, demo.names(host, []))
    port = door.getsockname()[1]
    with socket.create_connection(('127.0.0.1', port)):
      pass
  out, err = capsys.readouterr()
  assert out == f'The demo is at http://{host}:{port}\n'
  assert ('there is no password' in err) == warned


def test_a_missing_gradio_is_reported(refused, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  assert refused('demo', '--model', 'shapes') == (
    'This needs the package gradio; install it with pip install -e '
    "'.[demo]' -c constraints.txt in a clone."
  )


def check_signal(server, folder, number, code):
  """Sends a signal while a long picture is drawn."""
  assert answer(server, ASKED)[0] == 200
  with concurrent.futures.ThreadPoolExecutor() as threads:
    long = threads.submit(answer, server, ASKED | {'steps': 1000})
    time.sleep(0.5)
    server.process.send_signal(number)
    assert server.process.wait(timeout=10) == code
    assert long.exception(timeout=10) or long.result()[0] == 503
  assert server.log.read_text() == (
    'sana-jax: interrupted\n' if code > 0 else ''
  )
  assert not [p for p in folder.rglob('*') if p.is_file()]


# The last of the tests with this server, which it ends.
def test_it_ends_at_sigterm_while_it_draws_and_leaves_no_file(server, folder):
  check_signal(server, folder, signal.SIGTERM, 143)


@pytest.mark.parametrize(
  'number, code', [(signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_it_ends_at_other_signals_as_well(
  served, tiny_sana, tmp_path, monkeypatch, number, code
):
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  server = served(tiny_sana, '--max-steps', '1000')
  check_signal(server, tmp_path, number, code)
