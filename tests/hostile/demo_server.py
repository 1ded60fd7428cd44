"""A demo in this process, on a real socket, and raw requests to it."""

import asyncio
from collections.abc import Iterator
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import queue as queues
import secrets
from typing import NamedTuple

import uvicorn

from sana_jax import Pipeline
from sana_jax.inference import hosts, page, serving
from sana_jax.inference.demo import Limits
from sana_jax.inference.request_queue import RequestQueue

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
SETTINGS = {'steps': 2, 'guidance_scale': 4.5, 'sampler': 'dpm++2m'}
ASKED = ['a red circle', '', 16, 16, 2, 4.5, 5, 1, 'dpm++2m', '', '', 0.6, 0]
BOUND_SECONDS = 10  # In which everything is answered.


class Answer(NamedTuple):
  """An HTTP answer; the status 0 stands for a closed connection."""

  status: int
  headers: dict[str, str]
  body: bytes

  @property
  def json(self):
    return json.loads(self.body)


class Demo:
  """A running demo."""

  def __init__(self, guard, line: RequestQueue, port: int):
    self.guard, self.line, self.port = guard, line, port
    self.root = f'http://127.0.0.1:{port}'
    self.event = guard.event

  def send(
    self,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    read: bool = True,
    seconds: float = BOUND_SECONDS,
  ) -> Answer:
    """Sends a request; `read=False` leaves an endless answer unread."""
    headers = {
      'Host': f'127.0.0.1:{self.port}',
      'Content-Type': 'application/json',
      **(headers or {}),
    }
    connection = http.client.HTTPConnection(
      '127.0.0.1', self.port, timeout=seconds
    )
    with contextlib.closing(connection):
      try:
        connection.putrequest(
          method, path, skip_host=True, skip_accept_encoding=True
        )
        if body is not None:
          headers.setdefault('Content-Length', str(len(body)))
        for key, value in headers.items():
          connection.putheader(key, value)
        connection.endheaders()
        with contextlib.suppress(ConnectionError):  # Refused, not yet read.
          connection.send(body or b'')
        answer = connection.getresponse()
        return Answer(
          answer.status,
          dict(answer.getheaders()),
          answer.read() if read else b'',
        )
      except (ConnectionError, http.client.HTTPException):
        return Answer(0, {}, b'')

  def post(
    self, path: str, value, seconds: float = BOUND_SECONDS, **headers: str
  ) -> Answer:
    return self.send(
      'POST', path, json.dumps(value).encode(), headers, seconds=seconds
    )

  def routes(self) -> list[tuple[str, set[str]]]:
    """(path, methods) of all routes behind the guard."""
    found, apps = [], [self.guard.app]
    for app in apps:
      for route in app.routes:
        if hasattr(route, 'methods'):
          found.append((route.path, route.methods))
        else:  # A mounted application, or a router of it.
          apps.append(getattr(route, 'original_router', None) or route)
    return found

  def draw(self, seconds: float = BOUND_SECONDS, **changes) -> Answer:
    """Asks the interface for programs for a small picture."""
    return self.post(
      '/api/draw',
      {
        'prompt': 'a red circle',
        'width': 16,
        'height': 16,
        'steps': 2,
        **changes,
      },
      seconds,
    )

  @contextlib.contextmanager
  def page(self) -> Iterator['Page']:
    """A connected page, as a browser has it."""
    session = secrets.token_hex(6)
    with self.stream(f'/gradio_api/heartbeat/{session}') as beats:
      assert beats.readline() == b'data: ALIVE\n'
      yield Page(self, session)

  @contextlib.contextmanager
  def stream(self, path):
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
    connection.request('GET', path)
    answer = connection.getresponse()
    try:
      yield answer
    finally:
      answer.close()
      connection.close()


class Page(NamedTuple):
  """What the page's scripts do."""

  demo: Demo
  session: str

  def join(self, data=ASKED, **changes) -> Answer:
    return self.demo.post(
      '/gradio_api/queue/join',
      {
        'data': data,
        'fn_index': self.demo.event,
        'trigger_id': 7,
        'session_hash': self.session,
        **changes,
      },
      Origin=self.demo.root,
    )

  def events(self) -> Iterator[dict]:
    """Events of the request, up to its end."""
    with self.demo.stream(
      f'/gradio_api/queue/data?session_hash={self.session}'
    ) as lines:
      for line in lines:
        if line.startswith(b'data: '):
          yield json.loads(line.removeprefix(b'data: '))
          if b'"process_completed"' in line:
            return

  def draw(self, data=ASKED) -> dict:
    """The last event of a request."""
    answer = self.join(data)
    assert answer.status == 200, answer
    *_, last = self.events()
    return last


@contextlib.contextmanager
def running(queue: int = 16, names=(), pipe=None) -> Iterator[Demo]:
  """Serves a tiny model, or another."""
  pipe = pipe or Pipeline.from_pretrained(FOLDER, 'float32', encoder=True)
  kept = dict(os.environ)
  started = queues.Queue()

  async def serve():
    # Where no loop runs, gradio makes some and leaves them open.
    line = RequestQueue(queue)
    guard = page.app(
      pipe,
      SETTINGS,
      'tiny',
      Limits(64, 1000, 4),
      line,
      [*hosts.LOOPBACK, *map(hosts.name, names)],
    )
    server = uvicorn.Server(serving.config(guard))
    served = asyncio.ensure_future(server.serve())
    while not server.started:
      await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    started.put((server, Demo(guard, line, port)))
    await served

  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    done = thread.submit(asyncio.run, serve())
    server, demo = started.get(timeout=60)
    try:
      yield demo
    finally:
      demo.line.close(0.0)
      server.should_exit = True
      done.result(timeout=30)
      os.environ.clear()  # The page sets some of Gradio's.
      os.environ.update(kept)
