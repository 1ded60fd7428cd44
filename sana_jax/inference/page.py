"""The demo's web page, in Gradio, as an ASGI application.

No data leave the machine: no telemetry, no share links, and the browser loads
nothing from other hosts. Gradio receives only the requests that the guard
forwards (guard.py), and it has no folder to write to.
"""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import html
import os
import tempfile
from typing import Any

import fastapi
import gradio as gr
import gradio.routes
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sana_jax.inference import api, demo, guard, view
from sana_jax.inference.album import Album, SECONDS
from sana_jax.inference.demo import Limits
from sana_jax.inference.live import Drawer
from sana_jax.inference.request_queue import RequestQueue
from sana_jax.inference.widgets import layout, OWN, part

NOWHERE = os.path.join(os.devnull, 'gradio')  # No folder can be created there.
_SCRIPTS = (
  'png.js',
  'messages.js',
  'viewer.js',
  'history.js',
  'typing.js',
  'edit.js',
  'control.js',
  'page.js',
)


def app(
  pipe,
  settings: Mapping[str, Any],
  model: str,
  limits: Limits,
  line: RequestQueue,
  served: Iterable[str],
) -> Callable:
  """The application behind its guard.

  Args:
    settings: steps, guidance_scale and sampler that the page starts with.
    served: host names, as returned by `hosts.name`.
  """
  album = Album()
  os.environ['GRADIO_TEMP_DIR'] = NOWHERE
  with _folder():
    blocks, event, inputs = _page(pipe, settings, model, limits, line, album)
    mounted = _mounted(blocks, _head(pipe, limits, model))
  first = dict(zip(demo.keys(pipe), (widget.value for widget in inputs)))
  start = demo.of_values(first)._replace(
    negative_prompt='', num_images=1, strength=None
  )
  routes = [
    Route(
      guard.API,
      api.endpoint(pipe, model, limits, line, start),
      methods=['POST'],
    ),
    Route('/pictures/{path:path}', _picture(album)),
  ]
  mounted.router.routes[:0] = routes
  return guard.Guard(mounted, served, event, len(inputs))


def _mounted(blocks, head):
  undocumented = dict(docs_url=None, redoc_url=None, openapi_url=None)
  mounted = gr.mount_gradio_app(
    fastapi.FastAPI(**undocumented),
    blocks,
    '/',
    footer_links=[],
    run_history=False,
    ssr_mode=False,
    show_error=False,
    mcp_server=False,
    pwa=False,
    enable_monitoring=False,
    app_kwargs=undocumented,
    css=part('page.css'),
    head=head,
    theme=gr.themes.Default(
      font=['system-ui', 'sans-serif'], font_mono=['monospace']
    ),
  )
  # As after launch(); otherwise gradio copies any file that a request names.
  blocks.has_launched = blocks.is_running = True
  return mounted


@contextlib.contextmanager
def _folder():
  """Temporary folder for Gradio's start, removed afterwards."""
  with tempfile.TemporaryDirectory(prefix='sana-jax-demo-') as folder:
    gradio.routes.DEFAULT_TEMP_DIR = folder
    yield


def _page(pipe, settings, model, limits, line, album):
  """(gradio's blocks, index of the event that draws, its inputs)."""
  with gr.Blocks(title=f'SANA: {model}', analytics_enabled=False) as blocks:
    gr.Markdown(
      f'# SANA in JAX\n`{html.escape(model)}` draws what you '
      'describe. The same words, seed and settings give the same '
      'picture.'
    )
    widgets = layout(pipe, settings, limits)
    drawer = Drawer(pipe, model, limits, line, album)
    _drawing(widgets, demo.keys(pipe), drawer)
    _restoring(widgets)

    async def leave(request: gr.Request):
      line.leave(request.session_hash)
      album.drop(request.session_hash)

    blocks.unload(leave)  # The tab was closed.
  # The queue is `line`; gradio's must not be shorter.
  blocks.max_threads = line.most + 24
  blocks.queue(max_size=line.most)
  # Otherwise each failed request builds a pandas table of all previous ones.
  blocks._queue.compute_analytics_summary = lambda records: None
  (event,) = (
    i for i, fn in blocks.fns.items() if fn.fn and fn.inputs == widgets.inputs
  )
  return blocks, event, widgets.inputs


def _drawing(widgets, keys, drawer):
  """Events of both buttons."""
  drawing = gr.on(
    [widgets.draw.click, widgets.inputs[0].submit],
    _handler(keys, drawer),
    widgets.inputs,
    widgets.outputs,
    concurrency_limit=None,
    api_visibility='private',
    show_progress='hidden',
    js='(...values) => sana.start(values)',
  )
  shown = widgets.outputs[:3]
  widgets.stop.click(None, None, None, cancels=[drawing])
  widgets.stop.click(
    None, shown, shown, js='(...values) => sana.stopped(values)'
  )


def _restoring(widgets):
  """Event of the scripts that sets the widgets, by a hidden button."""
  restored = widgets.restored
  widgets.restore.click(
    None, restored, restored, js='(...values) => sana.restored(values)'
  ).then(None, None, None, js='() => sana.afterwards()')


def _handler(keys, drawer):
  """Handler of the button: an asynchronous generator of all outputs."""

  async def draw(request: gr.Request, *values):
    given = demo.of_values(dict(zip(keys, values, strict=True)))
    views = drawer.views(given, request.session_hash)
    async with contextlib.aclosing(views):
      async for shown in views:
        yield tuple(gr.skip() if x is None else x for x in shown)

  return draw


def _head(pipe, limits, model):
  """Scripts of the page, and their values."""
  values = view.config(
    sizes=demo.sizes(pipe, limits),
    most=limits.size_px,
    own=OWN,
    model=model,
    keys=demo.keys(pipe),
  )
  scripts = ''.join(f'<script>{part(name)}</script>' for name in _SCRIPTS)
  return values + scripts


def _picture(album):
  async def picture(request: Request) -> Response:
    content = album.get(request.path_params['path'])
    if content is None:
      return Response(
        'This picture is no longer stored.', 404, media_type='text/plain'
      )
    return Response(
      content,
      media_type='image/png',
      headers={'cache-control': f'private, max-age={SECONDS}, immutable'},
    )

  return picture
