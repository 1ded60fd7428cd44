"""Bodies of the demo's requests: bounded, parsed, and rebuilt.

Gradio gets a body made of the checked values only. A file description among
them (gradio's FileData) would make it copy that file into the folder that it
serves.
"""

import asyncio
from collections.abc import Callable
import contextlib
import json
import re
import threading
from typing import Any

from sana_jax.files import parse_json

# An image of 2048 x 2048 pixels as PNG and base64, and a mask.
MOST_BYTES = 2**24
# Two prompts of 20,000 characters, in any language; few are larger at a time.
_SMALL = 2**18
_LARGE = threading.BoundedSemaphore(4)
SECONDS = 10.0  # Time limit for a body to arrive.
# Limits of a request: number of strings, and bytes outside of them.
_STRINGS, _OUTSIDE = 64, 2048
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
SESSION = r'[A-Za-z0-9_-]{1,64}'


class Refused(ValueError):
  """A rejected request, with the HTTP status of the response."""

  def __init__(self, status: int, sentence: str):
    super().__init__(sentence)
    self.status = status


async def read(receive: Callable, length: bytes | None) -> bytes:
  """Reads the body of an ASGI request.

  Args:
    length: the header content-length.

  Raises:
    Refused: it is too large, too slow, or ends early.
  """
  if length is not None and (
    not length.isdigit() or len(length) > 9 or int(length) > MOST_BYTES
  ):
    raise _too_large()
  chunks, size, large = [], 0, contextlib.ExitStack()
  try:
    async with asyncio.timeout(SECONDS):
      while True:
        message = await receive()
        if message['type'] != 'http.request':
          raise Refused(400, 'The request ended early.')
        chunks.append(message.get('body', b''))
        size += len(chunks[-1])
        if size > MOST_BYTES:
          raise _too_large()
        if size > _SMALL >= size - len(chunks[-1]):
          large.enter_context(_one_of_few())
        if not message.get('more_body'):
          return b''.join(chunks)
  except TimeoutError:
    raise Refused(
      408, f'The request took more than {SECONDS:g} s to arrive.'
    ) from None
  finally:
    large.close()


def parsed(body: bytes) -> dict[str, Any]:
  """The JSON object of a body. Raises Refused."""
  if not _is_small(body):
    raise Refused(400, 'The request is no valid JSON, or has too many values.')
  try:
    value = parse_json(body)
  except ValueError:
    raise Refused(400, 'The request is no valid JSON.') from None
  if not isinstance(value, dict):
    raise Refused(400, 'The request must be a JSON object.')
  return value


def joining(value: dict[str, Any], event: int, inputs: int) -> bytes:
  """The page's request to draw, for gradio's queue.

  Args:
    event: index of the one event that may be queued.
    inputs: number of its inputs; each is a text, number, boolean or null.

  Raises:
    Refused: it holds anything else.
  """
  data = value.get('data')
  if (
    not isinstance(data, list)
    or len(data) != inputs
    or not all(map(_is_scalar, data))
  ):
    raise Refused(400, f'data must hold {inputs} texts or numbers.')
  return json.dumps(
    {
      'data': data,
      'fn_index': _event(value, event),
      'trigger_id': _id(value),
      'session_hash': session(value),
      'event_data': None,
    }
  ).encode()


def cancelling(value: dict[str, Any], event: int) -> bytes:
  """The page's request to stop drawing; like `joining`."""
  return json.dumps(
    {
      'session_hash': session(value),
      'fn_index': _event(value, event),
      'event_id': _text(value, 'event_id'),
    }
  ).encode()


def resetting(value: dict[str, Any]) -> bytes:
  """The page's request after one to stop; like `joining`."""
  return json.dumps({'event_id': _text(value, 'event_id')}).encode()


def session(value: dict[str, Any]) -> str:
  """The session name chosen by a page. Raises Refused."""
  return _text(value, 'session_hash')


def _is_small(body):
  """Whether a JSON text has few strings and few other bytes.

  A body with a thousand times as many values as a request takes 10 ms to parse,
  which blocks the event loop; this check takes a tenth of that.
  """
  position = outside = 0
  for _ in range(_STRINGS):
    quote = body.find(b'"', position)
    if quote < 0:
      break
    outside += quote - position
    string = _STRING.match(body, quote)
    if string is None:
      return False
    position = string.end()
  return outside + len(body) - position <= _OUTSIDE


def _text(value, key):
  text = value.get(key)
  if not isinstance(text, str) or not re.fullmatch(SESSION, text):
    raise Refused(400, f'{key} must be 1 to 64 letters, digits, - or _.')
  return text


def _event(value, event):
  index = value.get('fn_index')
  if type(index) is not int or index != event:
    raise Refused(403, 'fn_index is not an event that can be called.')
  return index


def _id(value):
  trigger = value.get('trigger_id')
  if trigger is not None and (
    type(trigger) is not int or not 0 <= trigger < 2**31
  ):
    raise Refused(400, 'trigger_id must be a whole number.')
  return trigger


def _is_scalar(value):
  if isinstance(value, int | float) and not isinstance(value, bool):
    return -(2**63) < value < 2**63
  return value is None or isinstance(value, bool | str)


@contextlib.contextmanager
def _one_of_few():
  """Context of a large body. Raises Refused if too many are arriving."""
  if not _LARGE.acquire(blocking=False):
    raise Refused(503, 'Too many images are being sent; try again later.')
  try:
    yield
  finally:
    _LARGE.release()


def _too_large():
  return Refused(413, f'The request has more than {MOST_BYTES} bytes.')
