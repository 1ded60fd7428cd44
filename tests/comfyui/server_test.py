"""The node of ComfyUI that samples by a running demo."""

import base64
import contextlib
import http.server
import importlib.util
import io
import json
import pathlib
import select
import threading
import time

from comfyui import runner
import numpy as np
from PIL import Image
import pytest

from sana_jax.comfyui import server as node

_spec = importlib.util.spec_from_file_location(
  'demo_server',
  pathlib.Path(__file__).parents[1] / 'hostile' / 'demo_server.py',
)
demo_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo_server)


@pytest.fixture(scope='module')
def demo():
  with demo_server.running() as running:
    yield running


SMALL = {'prompt': 'a cat', 'width': 16, 'height': 24, 'steps': 2}


@pytest.mark.long
def test_pictures_of_the_demo_are_those_of_the_library_node(
  demo, nodes, tiny_sana
):
  settings = {**SMALL, 'seed': 5, 'batch': 2, 'sampler': 'euler'}
  images, report = runner.run(
    nodes['SanaJaxServer'], server=demo.root, **settings
  )
  assert images.shape == (2, 24, 16, 3) and images.dtype == np.float32
  assert report.startswith('2 pictures in ')
  (pipeline,) = runner.run(
    nodes['SanaJaxLoad'], model=str(tiny_sana), dtype='float32'
  )
  (expected,) = runner.run(
    nodes['SanaJaxSample'], pipeline=pipeline, **settings
  )
  assert np.abs(images - expected).max() <= 1.01 / 255


@pytest.mark.long
def test_an_image_and_its_mask_are_sent(demo, nodes):
  image = np.random.default_rng(0).random((1, 24, 16, 3), np.float32)
  mask = np.zeros((1, 24, 16), np.float32)
  mask[:, 8:20, 6:11] = 1
  images, _ = runner.run(
    nodes['SanaJaxServer'],
    server=demo.root,
    prompt='a cat',
    steps=2,
    image=image,
    mask=mask,
  )
  kept = mask[0] == 0
  eight = np.round(image[0] * 255)
  np.testing.assert_array_equal(np.round(images[0][kept] * 255), eight[kept])
  assert (np.round(images[0] * 255) != eight)[~kept].mean() > 0.5


def test_what_the_demo_refuses_is_an_error_with_its_reason(demo, nodes):
  settings = {**SMALL, 'width': 1000}
  with pytest.raises(RuntimeError) as error:
    runner.run(nodes['SanaJaxServer'], server=demo.root, **settings)
  assert '400' in str(error.value) and 'width is 1000' in str(error.value)


@pytest.mark.parametrize(
  'address, allowed',
  [
    ('http://127.0.0.1:7860', ''),
    ('http://localhost', ''),
    ('https://[::1]:7860/', ''),
    ('http://gpu.example:7860', 'gpu.example'),
    ('http://gpu.example:7860', 'other, GPU.example:7860'),
  ],
)
def test_this_machine_and_listed_servers_are_allowed(
  address, allowed, monkeypatch
):
  monkeypatch.setenv(node.HOSTS, allowed)
  assert node.address(address)[0] in ('http', 'https')


@pytest.mark.parametrize(
  'address',
  [
    '',
    'gpu:7860',
    'file:///etc/passwd',
    'ftp://127.0.0.1',
    'http://',
    'http://127.0.0.1:port',
    'http://127.0.0.1:99999',
    'http://me@127.0.0.1',
    'http://127.0.0.1/api',
    'http://127.0.0.1?x=1',
    'http://127.0.0.1.evil.example',
    'http://evil.example#@127.0.0.1',
    'http://169.254.169.254',
    'http://gpu.example:1',
    'http://[::1',
  ],
)
def test_other_addresses_are_refused_before_anything_is_sent(
  address, nodes, monkeypatch
):
  monkeypatch.setenv(node.HOSTS, 'gpu.example:7860')
  with pytest.raises(runner.Invalid):
    runner.run(nodes['SanaJaxServer'], server=address, **SMALL)
  with pytest.raises(ValueError):  # Of a link, which is not validated.
    node.address(address)


def test_values_of_links_are_checked_when_they_are_used(nodes):
  cls, linked = nodes['SanaJaxServer'], ('server', 'prompt')
  with pytest.raises(ValueError):
    runner.run(cls, linked, server='http://evil.example', prompt='x')
  assert nodes['SanaJaxSample'].VALIDATE_INPUTS() is True
  assert nodes['SanaJaxLoad'].IS_CHANGED(dtype='default') == ''


def png(size=(8, 8)):
  file = io.BytesIO()
  Image.new('RGB', size, 'red').save(file, 'png')
  return base64.b64encode(file.getvalue()).decode()


def pictures(*encoded):
  found = [{'png': text} for text in encoded]
  return json.dumps({'pictures': found, 'report': 'x'}).encode()


@contextlib.contextmanager
def answering(status, body, seconds=0.0):
  """A server with one answer, and the requests that it got."""
  got = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      length = int(self.headers['content-length'])
      got.append((self.path, json.loads(self.rfile.read(length))))
      if seconds and select.select([self.connection], [], [], seconds)[0]:
        got.append('closed')  # Nothing else is sent.
        return
      with contextlib.suppress(OSError):
        self.send_response(status)
        self.send_header('location', 'http://127.0.0.1:9/')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
      pass

  door = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  door.daemon_threads = True
  thread = threading.Thread(target=door.serve_forever, args=(0.01,))
  thread.start()
  try:
    yield f'http://127.0.0.1:{door.server_address[1]}', got
  finally:
    door.shutdown()
    thread.join()
    door.server_close()


def test_values_that_are_left_to_the_model_are_not_sent(nodes):
  with answering(200, pictures(png())) as (server, got):
    images, report = runner.run(nodes['SanaJaxServer'], server=server)
    assert report == 'x' and images.shape == (1, 8, 8, 3)
    assert np.array_equal(images[0, 0, 0], [1, 0, 0])
    runner.run(
      nodes['SanaJaxServer'],
      server=server,
      guidance_scale=0,
      negative_prompt='n',
    )
  plain = {'prompt': 'a red circle', 'seed': 0, 'num_images': 1}
  more = {'guidance_scale': 0, 'negative_prompt': 'n'}
  assert got == [('/api/draw', plain), ('/api/draw', plain | more)]


@pytest.mark.parametrize(
  'status, body',
  [
    (200, b'<html>'),
    (200, b'[]'),
    (200, b'{}'),
    (200, b'{"pictures": []}'),
    (200, b'{"pictures": [{"png": "!"}]}'),
    (200, json.dumps({'pictures': [{'png': png()[:60]}]}).encode()),
    (
      200,
      json.dumps({'pictures': [{'png': png()}, {'png': png((9, 9))}]}).encode(),
    ),
    (200, b'[' * 100_000),
    (302, b'{"detail": "elsewhere"}'),
    (503, b'{"detail": "The queue is full.\\n\\u001b[2J"}'),
  ],
)
def test_another_answer_is_an_error_in_one_line(status, body, nodes):
  with (
    answering(status, body) as (server, got),
    pytest.raises(RuntimeError) as error,
  ):
    runner.run(nodes['SanaJaxServer'], server=server)
  assert '\n' not in str(error.value) and len(str(error.value)) < 700
  assert len(got) == 1  # No redirection is followed.


def test_cancel_closes_the_connection(nodes, comfy):
  with answering(200, b'{}', seconds=10.0) as (server, got):

    def cancel():
      while not got:
        time.sleep(0.01)
      comfy.cancelled = True

    threading.Thread(target=cancel).start()
    with pytest.raises(KeyboardInterrupt):
      runner.run(nodes['SanaJaxServer'], server=server)
    deadline = time.monotonic() + 5
    while len(got) < 2:
      assert time.monotonic() < deadline
      time.sleep(0.01)
  assert got[1] == 'closed'
