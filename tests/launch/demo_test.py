"""sana-jax demo: its flags, and its server as a program sees it."""

import json
import pathlib
import signal
import socket
import sys
import urllib.error
import urllib.request

import pytest

ASKED = ['a red circle', '', 16, 16, 2, 4.5, 5, 2, 'dpm++2m']


@pytest.fixture(scope='module')
def server(served, tiny_sana):
  return served(tiny_sana, '--cpu-devices', '8')


def get(server, path, data=None):
  request = urllib.request.Request(
    server.address + path, data, {'Content-Type': 'application/json'})
  with urllib.request.urlopen(request, timeout=60) as response:
    return response.read()


def answer(server, asked):
  """('complete', the outputs) or ('error', what is said)."""
  event = json.loads(get(server, '/gradio_api/call/draw', json.dumps(
    {'data': asked}).encode()))['event_id']
  stream = get(server, f'/gradio_api/call/draw/{event}').decode()
  kind, data = stream.strip().split('\n\n')[-1].split('\n')
  return kind.removeprefix('event: '), json.loads(data.removeprefix('data: '))


def test_the_page_gives_the_bytes_of_sample(server, cli, tiny_sana, tmp_path):
  kind, (pictures, said) = answer(server, ASKED)
  assert kind == 'complete'
  assert said.startswith('2 pictures in ')
  assert cli('sample', '--model', tiny_sana, '--prompt', 'a red circle',
             '--height', 16, '--width', 16, '--steps', 2, '--seed', 5,
             '--num-images', 2, '--out', tmp_path)[0] == 0
  for k, picture in enumerate(pictures):
    got = get(server, f'/gradio_api/file={picture["image"]["path"]}')
    assert got == (tmp_path / f'00000-{k}-a-red-circle.png').read_bytes()


@pytest.mark.parametrize('place, value, said', [
  (0, '', 'prompt is empty; say what to show.'),
  (2, 10**6, 'width is 1000000; give a whole number from 4 to 64.'),
  (2, 'wide', "width is 'wide'; give a whole number from 4 to 64."),
  (4, None, 'steps is missing; give a whole number from 1 to 50.'),
  (7, 99, 'num_images is 99; give a whole number from 1 to 4.'),
  (8, '<b>', "sampler is '&lt;b&gt;'; allowed are euler"),
])
def test_a_program_is_told_what_is_wrong(server, place, value, said):
  kind, error = answer(
    server, [*ASKED[:place], value, *ASKED[place + 1:]])
  assert kind == 'error'
  assert error['error'].startswith(said)
  assert 'Traceback' not in server.log.read_text()


def test_the_browser_is_told_to_load_nothing_from_elsewhere(server):
  with urllib.request.urlopen(server.address, timeout=60) as page:
    policy = page.headers['content-security-policy']
  assert policy.startswith("default-src 'self' ")
  assert 'http' not in policy


@pytest.mark.parametrize('path, data', [
  ('/gradio_api/upload', b'x'),
  ('/gradio_api/file=/etc/hostname', None),
])
def test_nothing_is_uploaded_and_no_other_file_is_served(server, path, data):
  with pytest.raises(urllib.error.HTTPError) as refused:
    get(server, path, data)
  with refused.value as response:
    assert response.code == 403


def test_it_ends_at_a_signal_and_leaves_no_pictures(server):
  _, (pictures, _) = answer(server, ASKED)
  path = pathlib.Path(pictures[0]['image']['path'])
  assert path.exists()
  server.process.send_signal(signal.SIGTERM)
  assert server.process.wait(timeout=30) == 130
  assert not any(p.exists() for p in (path, *path.parents[:2]))
  assert server.log.read_text() == 'sana-jax: interrupted\n'


def test_a_taken_port_is_told_before_the_model_is_read(refused):
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    message = refused('demo', '--model', 'none', '--port', port)
  assert message == (f'--host=127.0.0.1 --port={port} cannot be listened at '
                     '(Address already in use); choose another.')


@pytest.mark.parametrize('flags, said', [
  (['--host', 'no such host'], '--host=no such host is not an address'),
  (['--max-size', '3'], '--max-size=3 is less than the smallest picture that '
   'the model can make; give 4 or more.'),
  (['--max-steps', '0'], "--max-steps: '0' is not allowed"),
  (['--max-queue', 'x'], "--max-queue: 'x' is not allowed"),
])
def test_a_bad_flag_is_told(refused, tiny_sana, flags, said):
  assert said in refused('demo', '--model', tiny_sana, '--port', 0, *flags)


@pytest.mark.parametrize('host, warned', [
  ('127.0.0.1', False), ('0.0.0.0', True)])
def test_other_machines_are_let_in_with_a_warning(capsys, host, warned):
  from sana_jax.launch import demo
  with demo.listening(host, 0) as door:
    demo.announce(door)
    port = door.getsockname()[1]
    with socket.create_connection(('127.0.0.1', port)):
      pass
  out, err = capsys.readouterr()
  assert out == f'The demo is at http://{host}:{port}\n'
  assert ('there is no password' in err) == warned


def test_a_missing_gradio_is_told(refused, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  assert refused('demo', '--model', 'shapes') == (
    "This needs the package gradio; install it with pip install "
    "'sana_jax[demo]'.")
