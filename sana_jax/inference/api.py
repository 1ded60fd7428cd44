"""The demo's JSON interface for programs: POST /api/draw."""

import asyncio
import base64
from collections.abc import Callable, Mapping
import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sana_jax.errors import UserError
from sana_jax.files import parse_json
from sana_jax.inference import demo
from sana_jax.inference.demo import DrawRequest, Limits
from sana_jax.inference.guard import API
from sana_jax.inference.live import FAILED
from sana_jax.inference.request_queue import Full, RequestQueue, Stopped
from sana_jax.printable import printable


def endpoint(
  pipe, model: str, limits: Limits, line: RequestQueue, defaults: DrawRequest
) -> Callable:
  """The route's handler, behind the guard.

  Args:
    defaults: values of omitted keys.
  """

  async def draw(request: Request) -> Response:
    try:
      checked = demo.check(
        pipe, fields(parse_json(await request.body()), defaults), limits
      )
      return JSONResponse(
        await _unless_gone(
          request,
          line.run(lambda stop: _drawn(pipe, checked, limits, model, stop)),
        )
      )
    except Full as e:
      return _refusal(503, str(e), {'retry-after': '10'})
    except UserError as e:
      return _refusal(400, str(e))
    except Stopped:
      return _refusal(503, 'The demo is shutting down.')
    except Exception as e:  # Its text may name files of this machine.
      logging.getLogger(__name__).error('%s failed', API, exc_info=e)
      return _refusal(500, FAILED)

  return draw


def fields(value: Mapping[str, Any], defaults: DrawRequest) -> DrawRequest:
  """A request from JSON values, not yet checked; only `prompt` is required.

  Raises UserError for unknown keys.
  """
  unknown = sorted(set(value) - set(DrawRequest._fields))
  if unknown:
    raise UserError(
      f'Unknown key {printable(unknown[0], 60)!r}; allowed are '
      f'{", ".join(DrawRequest._fields)}.',
      key=unknown[0],
      value=unknown[0],
      allowed=DrawRequest._fields,
    )
  return defaults._replace(prompt=None)._replace(**value)


def _drawn(pipe, checked, limits, model, stop):
  files, report, notes = demo.drawn(pipe, checked, limits, model, stop)
  return {
    'pictures': [
      {
        'name': file.name,
        'caption': file.caption,
        'png': base64.b64encode(file.content).decode(),
      }
      for file in files
    ],
    'report': ' '.join([report, *notes]),
  }


async def _unless_gone(request, drawing):
  """Result of the coroutine, which is cancelled if the client disconnects."""
  drawing = asyncio.ensure_future(drawing)
  gone = asyncio.ensure_future(_gone(request.receive))
  try:
    await asyncio.wait({drawing, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not drawing.done():
      raise Stopped
    return drawing.result()
  finally:
    drawing.cancel()
    gone.cancel()


async def _gone(receive):
  while (await receive())['type'] != 'http.disconnect':
    pass


def _refusal(status, sentence, headers=None):
  return JSONResponse({'detail': sentence}, status, headers)
