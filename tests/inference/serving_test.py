"""A server that ends, and that does not wait for slow clients."""

import signal
import socket
import subprocess
import sys
import time

import pytest

SERVER = """
import asyncio, socket, sys, time
from sana_jax.inference import serving
from sana_jax.inference.request_queue import RequestQueue

async def app(scope, receive, send):
  if scope['type'] == 'lifespan':
    return
  if scope['path'] == '/stuck':  # As a pattern or a file without an end.
    while True:
      pass
  if scope['path'] == '/drawing':  # As a program that compiles.
    await line.run(lambda stop: time.sleep(60))
  await send({'type': 'http.response.start', 'status': 200, 'headers': []})
  await send({'type': 'http.response.body', 'body': b'here'})

serving._HEAD_SECONDS = float(sys.argv[1])
line = RequestQueue(4)
with socket.create_server(('127.0.0.1', 0)) as door:
  print(door.getsockname()[1], flush=True)
  serving.serve(app, door, line)
"""


@pytest.fixture
def server():
  """(process, port), by the seconds in which headers must arrive."""
  processes = []

  def start(head_seconds=10.0):
    process = subprocess.Popen(
      [sys.executable, '-c', SERVER, str(head_seconds)],
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    processes.append(process)
    port = int(process.stdout.readline())
    with ask(port) as client:
      assert client.recv(999).startswith(b'HTTP/1.1 200')
    return process, port

  yield start
  for process in processes:
    process.kill()
    process.communicate()


def ask(port, path='/'):
  """A socket that has sent a request."""
  client = socket.create_connection(('127.0.0.1', port), timeout=20)
  client.sendall(f'GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode())
  return client


@pytest.mark.long
@pytest.mark.parametrize('path', ['/', '/stuck', '/drawing'])
def test_one_signal_ends_it_within_seconds_whatever_it_does(server, path):
  process, port = server()
  with ask(port, path):
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 143


@pytest.mark.long
def test_a_second_signal_ends_a_stuck_server_at_once(server):
  process, port = server()
  with ask(port, '/stuck'):
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == -signal.SIGINT
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
  'sent', [b'', b'GET', b'GET / HTTP/1.1\r\nHost: x\r\n']
)
@pytest.mark.parametrize('before', [False, True])
def test_headers_that_do_not_arrive_end_the_connection(server, sent, before):
  process, port = server(0.3)
  with (
    ask(port)
    if before
    else socket.create_connection(('127.0.0.1', port), timeout=20)
  ) as client:
    if before:
      client.recv(999)
    client.sendall(sent)
    while client.recv(999):
      pass
  with ask(port) as client:
    assert client.recv(999).startswith(b'HTTP/1.1 200')
