"""Node that samples by a running `sana-jax demo`, over HTTP.

It needs neither JAX nor sana_jax: only the standard library, and NumPy and
Pillow, which ComfyUI has. A workflow may come from a stranger, and names the
server: others than this machine must be listed in an environment variable.
"""

import base64
import contextlib
import http.client
import io
import json
import os
import socket
import threading
from typing import Any
import urllib.parse

import numpy as np
from PIL import Image

from . import inputs

HOSTS = 'SANA_JAX_COMFYUI_HOSTS'
_LOOPBACK = ('localhost', '127.0.0.1', '::1')
_PATH = '/api/draw'
_CONNECT_SECONDS = 10
_MOST_BYTES = 2**29  # Of an answer.
_MOST_PIXELS = 2**26
_POLL_SECONDS = 0.2


class SampleByServer:
  """Pictures of a prompt, drawn by a demo server."""

  RETURN_TYPES = ('IMAGE', 'STRING')
  RETURN_NAMES = ('images', 'report')
  FUNCTION = 'sample'
  CATEGORY = inputs.CATEGORY
  DESCRIPTION = 'Draws pictures of a prompt by a running sana-jax demo.'

  @classmethod
  def INPUT_TYPES(cls) -> dict:
    """ComfyUI's description of the widgets."""
    server = {'server': ('STRING', {'default': 'http://127.0.0.1:7860'})}
    return {
      'required': server | inputs.of_sampling(),
      'optional': inputs.of_editing() | {'lora': (inputs.LORA, {})},
    }

  @classmethod
  def VALIDATE_INPUTS(
    cls, server: str | None = None, prompt: str | None = None
  ) -> bool | str:
    """True, or an error in a sentence."""
    if server is not None:
      try:
        address(server)
      except ValueError as e:
        return str(e)
    return inputs.check_prompt(prompt)

  def sample(
    self,
    server: str,
    prompt: str,
    negative_prompt: str,
    seed: int,
    steps: int,
    guidance_scale: float | int,
    sampler: str,
    width: int,
    height: int,
    batch: int,
    image: Any = None,
    mask: Any = None,
    strength: float | int = 1.0,
    mask_blur: float | int = 0.0,
    control: dict[str, Any] | None = None,
    lora: dict[str, float] | None = None,
  ) -> tuple[Any, str]:
    """(images, report); errors are sentences."""
    request = {'prompt': prompt, 'seed': seed, 'num_images': batch}
    request |= inputs.chosen(
      negative_prompt=negative_prompt,
      steps=steps,
      guidance_scale=guidance_scale,
      sampler=sampler,
      width=width,
      height=height,
    )
    # The image's size, where no other is chosen.
    request = _encoded(inputs.edit(image, mask, strength, mask_blur)) | request
    if control is not None:
      request |= _controlled(control)
    if lora:
      request['lora'] = lora
    answer = _posted(server, json.dumps(request).encode())
    try:
      pictures = [_pixels(entry['png']) for entry in answer['pictures']]
      report = str(answer.get('report', ''))[:1000]
      return inputs.tensor(np.stack(pictures)), report
    except Exception as e:  # Pillow's parsers raise errors of any type.
      raise RuntimeError(
        f'{server} is no sana-jax demo: its answer has no pictures.'
      ) from e


def address(server: str) -> tuple[str, str, int]:
  """(scheme, host, port) of a server's address.

  Raises ValueError for another form, or a host that is not allowed.
  """
  try:
    parts = urllib.parse.urlsplit(server.strip())
    host, port = parts.hostname, parts.port
  except ValueError:
    parts = host = port = None
  if parts is None or parts.scheme not in ('http', 'https') or not host:
    raise ValueError(
      'The server must be an address such as http://127.0.0.1:7860.'
    )
  if parts.username is not None or ''.join(parts[2:]) not in ('', '/'):
    raise ValueError('The server must be an address without a path or a user.')
  port = port or (443 if parts.scheme == 'https' else 80)
  allowed = os.environ.get(HOSTS, '').lower().replace(',', ' ').split()
  if host not in _LOOPBACK and not {host, f'{host}:{port}'} & {*allowed}:
    raise ValueError(
      f'The server {host}:{port} is not this machine; to send prompts there, '
      f'set {HOSTS}={host}:{port} before ComfyUI starts.'
    )
  return parts.scheme, host, port


def _encoded(edit):
  """The edit with its pixels as PNG in base64, in the image's size."""
  if 'image' not in edit:
    return {}
  height, width = edit['image'].shape[:2]
  sent = {'height': height, 'width': width}
  for key, value in edit.items():
    sent[key] = _png(value) if isinstance(value, np.ndarray) else value
  return sent


def _controlled(control):
  """Keys of a control image."""
  options = {f'control_{k}': v for k, v in control['options'].items()}
  return {'control_image': _png(control['image']), **options}


def _png(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  return base64.b64encode(file.getvalue()).decode()


def _posted(server: str, body: bytes) -> dict[str, Any]:
  """The answer of the demo, while Cancel closes the connection."""
  scheme, host, port = address(server)
  kinds = {
    'http': http.client.HTTPConnection,
    'https': http.client.HTTPSConnection,
  }
  connection = kinds[scheme](host, port, timeout=_CONNECT_SECONDS)
  progress, found, opened = inputs.Progress(1), {}, None
  try:
    connection.connect()
    opened = connection.sock
    opened.settimeout(None)  # It waits in the queue of the demo.
    thread = threading.Thread(
      target=_exchange, args=(connection, body, found), daemon=True
    )
    thread.start()
    while thread.is_alive():
      progress.check()
      thread.join(_POLL_SECONDS)
  except OSError as e:
    raise RuntimeError(
      f'{server} cannot be reached ({e.strerror or type(e).__name__}); start '
      'sana-jax demo there.'
    ) from e
  finally:
    if opened is not None:  # The thread wakes, and the demo cancels.
      with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
    connection.close()
  if 'error' in found:
    raise RuntimeError(
      f'{server} closed the connection; the log of the demo has the reason.'
    ) from found['error']
  progress(1)
  return _answer(server, found['status'], found['data'])


def _exchange(connection, body, found):
  try:
    headers = {'Content-Type': 'application/json'}
    connection.request('POST', _PATH, body, headers)
    response = connection.getresponse()
    data = response.read(_MOST_BYTES + 1)
    found.update(status=response.status, data=data)
  except (OSError, http.client.HTTPException, ValueError, AttributeError) as e:
    found['error'] = e


def _answer(server, status, data):
  if len(data) > _MOST_BYTES:
    raise RuntimeError(f'The answer of {server} is larger than 512 MiB.')
  try:
    value = json.loads(data)
  except (ValueError, RecursionError):
    value = None
  if not isinstance(value, dict):
    raise RuntimeError(f'{server} is no sana-jax demo: its answer is no JSON.')
  if status != 200:
    detail = ' '.join(str(value.get('detail', '')).split())[:500]
    raise RuntimeError(f'The demo answers {status}: {detail}')
  return value


def _pixels(text):
  data = base64.b64decode(text, validate=True)
  with Image.open(io.BytesIO(data), formats=['PNG']) as image:
    if image.width * image.height > _MOST_PIXELS:
      raise ValueError('it is too large')
    return np.asarray(image.convert('RGB'))
