"""Request filter of the demo's web application.

Gradio has about seventy routes, some of which read files, write them, or fetch
URLs. Only those that the demo's page needs are forwarded, with headers and
bodies rebuilt from checked values.
"""

import collections
from collections.abc import Callable, Iterable
import functools
import re
from typing import Any

from starlette.responses import JSONResponse

from sana_jax.inference import bodies, hosts
from sana_jax.inference.bodies import Refused

API = '/api/draw'
_JOIN = '/gradio_api/queue/join'
_DATA = '/gradio_api/queue/data'
_HEARTBEAT = '/gradio_api/heartbeat/'
_SEGMENT = r'[A-Za-z0-9_@+-][A-Za-z0-9_@+.-]*'
_READABLE = re.compile(
  '|'.join(
    (
      '/',
      r'/theme\.css',
      r'/manifest\.json',
      r'/favicon\.ico',
      _DATA,
      rf'/(assets|static)(/{_SEGMENT})+',
      _HEARTBEAT + bodies.SESSION,
      r'/pictures/[A-Za-z0-9_-]{43}/[a-z0-9-]{1,80}\.png',
    )
  )
)
# Others are dropped: gradio trusts headers about its own address, and a range
# request costs more than a picture.
_HEADERS = {
  b'host',
  b'x-forwarded-host',
  b'x-forwarded-proto',
  b'accept',
  b'accept-encoding',
  b'content-type',
  b'user-agent',
  b'if-none-match',
  b'if-modified-since',
}
# Gradio's scripts and styles are inline and generated at run time.
_POLICY = (
  b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
  b"frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
_ANSWERED_WITH = [
  (b'content-security-policy', _POLICY),
  (b'x-content-type-options', b'nosniff'),
  (b'referrer-policy', b'same-origin'),
]


class Guard:
  """An ASGI application that forwards only the requests of the demo.

  Args:
    app: the application behind it.
    served: host names, as returned by `hosts.name`.
    event: index of gradio's event that draws.
    inputs: the number of its inputs.
  """

  def __init__(
    self, app: Callable, served: Iterable[str], event: int, inputs: int
  ):
    self.app, self.event = app, event
    self._served = frozenset(served)
    self._connected = collections.Counter()  # Pages, by session.
    self._rebuild = {
      _JOIN: functools.partial(self._joining, event=event, inputs=inputs),
      '/gradio_api/cancel': functools.partial(bodies.cancelling, event=event),
      '/gradio_api/reset': bodies.resetting,
    }

  async def __call__(self, scope, receive, send):
    if scope['type'] == 'lifespan':
      await self.app(scope, receive, send)
      return
    if scope['type'] != 'http':
      return  # The server offers no websockets.
    send = functools.partial(_send, send)
    try:
      scope, receive = await self._checked(scope, receive)
    except Refused as e:
      # The rest of the body is not read.
      refusal = JSONResponse(
        {'detail': str(e)}, e.status, {'connection': 'close'}
      )
      await refusal(scope, receive, send)
      return
    await self._connection(scope, receive, send)

  async def _connection(self, scope, receive, send):
    session = scope['path'].removeprefix(_HEARTBEAT)
    if session == scope['path']:
      await self.app(scope, receive, send)
      return
    self._connected[session] += 1
    try:
      await self.app(scope, receive, send)
    finally:
      self._connected[session] -= 1
      if not self._connected[session]:
        del self._connected[session]

  async def _checked(self, scope, receive):
    """The request rebuilt: (scope, receive). Raises Refused."""
    try:
      origin = hosts.origin(scope['headers'], self._served)
    except hosts.Foreign as e:
      raise Refused(403, str(e)) from e
    path, method = scope['path'], scope['method']
    writes = path == API or path in self._rebuild
    if not writes and not _READABLE.fullmatch(path):
      raise Refused(404, 'There is no such page.')
    if method not in (('POST',) if writes else ('GET', 'HEAD')):
      raise Refused(405, f'{path} does not have this method.')
    headers = {k: v for k, v in scope['headers'] if k in _HEADERS}
    scope = scope | {
      'query_string': _query(scope),
      'root_path': '',
      'raw_path': path.encode(),
    }
    if writes:
      body = await self._body(scope, receive)
      if path == _JOIN and origin is None:
        raise Refused(403, f'Programs use {API}.')
      headers[b'content-length'] = str(len(body)).encode()
      receive = _replayed(body, receive)
    return scope | {'headers': list(headers.items())}, receive

  async def _body(self, scope, receive):
    headers = dict(scope['headers'])
    kind = headers.get(b'content-type', b'').partition(b';')[0].strip()
    if kind.lower() != b'application/json':
      raise Refused(415, 'The request must be of type application/json.')
    body = await bodies.read(receive, headers.get(b'content-length'))
    value = bodies.parsed(body)
    rebuild = self._rebuild.get(scope['path'])
    return rebuild(value) if rebuild else body

  def _joining(self, value: dict[str, Any], event: int, inputs: int) -> bytes:
    body = bodies.joining(value, event, inputs)
    if not self._connected[bodies.session(value)]:
      raise Refused(409, 'The page is not connected; load it again.')
    return body


def _query(scope):
  """The only parameter that the page needs, checked."""
  if scope['path'] != _DATA:
    return b''
  match = re.search(
    rf'(?:^|&)(session_hash={bodies.SESSION})(?=&|$)',
    scope['query_string'].decode('latin-1'),
  )
  if match is None:
    raise Refused(400, 'session_hash is missing.')
  return match[1].encode()


def _replayed(body, receive):
  """ASGI's receive, which returns the body and then later messages."""
  messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

  async def replayed():
    return messages.pop() if messages else await receive()

  return replayed


async def _send(send, message):
  if message['type'] == 'http.response.start':
    message = message | {
      'headers': [*message.get('headers', ()), *_ANSWERED_WITH]
    }
  await send(message)
