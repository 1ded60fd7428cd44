"""Client of OpenAI-style chat APIs: pictures, retries and a cache on the disk.

Usable answers are stored by URL, model, question and pictures. A redirect is
not followed, since it would pass the key on.
"""

import base64
from collections.abc import Callable, Sequence
import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import time
from typing import Any, NamedTuple

import httpx

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.printable import counted, printable

KEY = 'SANA_JAX_JUDGE_KEY'  # Environment variable with a bearer token.
FOLDER = '~/.cache/sana_jax/judges'
_MOST_BYTES = 2**20  # Of a response.
_LONGEST_WAIT = 60.0  # Seconds, whatever a server requests.


class Endpoint(NamedTuple):
  """Address of a model, and the limits of its calls.

  Attributes:
    timeout: seconds of a request.
    retries: after a failed connection and the statuses 408, 429 and 5xx.
    concurrency: requests at a time.
  """

  url: str
  model: str
  timeout: float = 60.0
  retries: int = 5
  concurrency: int = 8


class Answer(NamedTuple):
  """Value of an answer, and the tokens that it took (0 if cached)."""

  value: Any
  tokens: int = 0
  cached: bool = False


def answers(
  endpoint: Endpoint,
  questions: Sequence[str],
  pictures: Sequence[Sequence[bytes]],
  read: Callable[[str], Any],
) -> list[Answer]:
  """Answers to questions about PNGs, in order.

  Args:
    read: text of an answer -> its value; raises ValueError with what it must
      be.

  Raises:
    UserError: the endpoint does not answer, is no chat API, or answers what
      cannot be read.
  """
  with (
    httpx.Client(timeout=endpoint.timeout) as client,
    concurrent.futures.ThreadPoolExecutor(endpoint.concurrency) as pool,
  ):
    ask = functools.partial(_cached, endpoint, client, read)
    waiting = [pool.submit(ask, *args) for args in zip(questions, pictures)]
    try:
      return [x.result() for x in waiting]
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise


def _cached(endpoint, client, read, question, pictures):
  parts = [endpoint.url, endpoint.model, question, *pictures]
  digests = [
    hashlib.sha256(x.encode() if isinstance(x, str) else x).digest()
    for x in parts
  ]
  name = hashlib.sha256(b''.join(digests)).hexdigest()
  path = pathlib.Path(FOLDER).expanduser() / f'{name}.json'
  try:
    stored = files.parse_json(path.read_bytes())['answer']
    return Answer(read(stored), cached=True)
  except (OSError, ValueError, KeyError, TypeError):
    pass  # Absent, or damaged: requested again.
  text, tokens = _requested(endpoint, client, question, pictures)
  try:
    value = read(text)
  except ValueError as error:
    raise UserError(
      f'The judge {endpoint.model} answers {printable(repr(text), 80)}; it '
      f'must be {error}.',
      key='--scorer',
      value=text,
      allowed=str(error),
    ) from None
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, json.dumps({'answer': text}))
  return Answer(value, tokens)


def _requested(endpoint, client, question, pictures):
  """The answer of the model; raises UserError once the retries are used up."""
  wait = 0.5
  for attempt in range(endpoint.retries + 1):
    if attempt:
      time.sleep(wait)
    try:
      with client.stream(
        'POST',
        f'{endpoint.url}/chat/completions',
        **_request(endpoint, question, pictures),
      ) as response:
        body = _bounded(response, endpoint.timeout)
    except httpx.HTTPError as error:
      reason, wait = type(error).__name__, min(2 * wait, _LONGEST_WAIT)
      continue
    reason = f'status {response.status_code}'
    if response.status_code == 200:
      return _read(endpoint, body)
    if response.status_code not in (408, 429) and response.status_code < 500:
      break
    wait = _pause(response.headers.get('retry-after'), wait)
  raise UserError(
    f'The judge {endpoint.model} at {endpoint.url} does not answer ({reason}, '
    f'{counted(attempt + 1, "attempt")}); answers so far are kept.',
    key='--scorer',
    value=reason,
    allowed='a judge that answers',
  )


def _request(endpoint, question, pictures):
  key = os.environ.get(KEY)
  images = [
    {
      'type': 'image_url',
      'image_url': {
        'url': f'data:image/png;base64,{base64.b64encode(png).decode()}'
      },
    }
    for png in pictures
  ]
  text = {'type': 'text', 'text': question}
  return {
    'headers': {'Authorization': f'Bearer {key}'} if key else {},
    'json': {
      'model': endpoint.model,
      'messages': [{'role': 'user', 'content': [*images, text]}],
      'temperature': 0,
      'max_tokens': 16,
    },
  }


def _bounded(response, seconds):
  """The body; one that is too long, or does not end in time, is an error."""
  body, end = b'', time.monotonic() + seconds
  for part in response.iter_bytes():
    body += part
    if len(body) > _MOST_BYTES or time.monotonic() > end:
      raise httpx.ReadTimeout('too long')
  return body


def _pause(retry_after, wait):
  try:
    return min(max(float(retry_after), 0.0), _LONGEST_WAIT)
  except (TypeError, ValueError):
    return min(2 * wait, _LONGEST_WAIT)


def _read(endpoint, body):
  try:
    found = files.parse_json(body)
    text = found['choices'][0]['message']['content']
    tokens = (found.get('usage') or {}).get('total_tokens', 0)
    if isinstance(text, str) and isinstance(tokens, int):
      return text, max(tokens, 0)
  except (ValueError, KeyError, IndexError, TypeError, AttributeError):
    pass
  raise UserError(
    f'{endpoint.url} is no chat API: its answer is '
    f'{printable(body[:80].decode(errors="replace"), 80)!r}.',
    key='--scorer',
    value=endpoint.url,
    allowed='choices[0].message.content',
  )
