"""A web server with limits on clients and a bounded shutdown time."""

from collections.abc import Callable
import logging
import os
import signal
import socket
import sys
import threading

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sana_jax.inference.request_queue import RequestQueue

_HEAD_SECONDS = 10  # Time limit for the headers of a request to arrive.
_CONNECTIONS = 1000
_DRAIN_SECONDS = 1  # For responses in flight at shutdown,
_END_SECONDS = 5  # and for everything, including a drawing step.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Protocol(H11Protocol):
  """HTTP/1.1 that closes connections without a request in time."""

  _deadline = None

  def connection_made(self, transport):
    super().connection_made(transport)
    self._watch()

  def data_received(self, data):
    super().data_received(data)
    self._watch()

  def on_response_complete(self):
    super().on_response_complete()
    self._watch()

  def connection_lost(self, exc):
    super().connection_lost(exc)
    if self._deadline is not None:
      self._deadline.cancel()

  def _watch(self):
    waiting = self.cycle is None or self.cycle.response_complete
    if waiting and self._deadline is None:
      self._deadline = self.loop.call_later(_HEAD_SECONDS, self.transport.close)
    elif not waiting and self._deadline is not None:
      self._deadline.cancel()
      self._deadline = None


def config(app: Callable) -> uvicorn.Config:
  """Settings of the server, on any free port unless it gets a socket."""
  return uvicorn.Config(
    app,
    port=0,
    http=_Protocol,
    ws='none',
    log_level='warning',
    server_header=False,
    limit_concurrency=_CONNECTIONS,
    timeout_graceful_shutdown=_DRAIN_SECONDS,
  )


def serve(app: Callable, door: socket.socket, line: RequestQueue) -> None:
  """Serves until SIGINT or SIGTERM, then exits with 130 or 143.

  The server runs in its own thread, so that this one always handles signals.
  The first signal ends it within seconds, whatever the server is doing; a
  second one kills the process.
  """
  server = uvicorn.Server(config(app))
  # Thread.join considers a thread finished once a signal interrupted the join.
  ended, received = threading.Event(), []

  def run():
    try:
      server.run(sockets=[door])
    finally:
      ended.set()

  def interrupt(received_signal, _):
    received.append(received_signal)
    for number in _SIGNALS:
      # The system's default ends the process without running Python code.
      signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt

  for number in _SIGNALS:
    signal.signal(number, interrupt)
  try:
    threading.Thread(target=run, daemon=True).start()
    ended.wait()
  except KeyboardInterrupt:
    _end(server, ended, line, 128 + received[0])
  raise RuntimeError('The server ended by itself.')


def _end(server, ended, line, exit_code):
  # Requests cut off now are not errors.
  logging.getLogger('uvicorn').setLevel(logging.CRITICAL)
  server.should_exit = True
  line.close(float(_END_SECONDS - _DRAIN_SECONDS))
  ended.wait(2 * _DRAIN_SECONDS)
  print('sana-jax: interrupted', file=sys.stderr, flush=True)
  # Python would wait for a compiling thread, and then take seconds to free its
  # modules; nothing is left to be written.
  os._exit(exit_code)
