"""The demo's web page, in Gradio, as an ASGI application.

No data leave the machine: no telemetry, no share links, and the browser loads
nothing from other hosts. Gradio receives only the requests that the guard
forwards (guard.py), and it has no folder to write to.
"""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import html
import json
import os
import tempfile
from typing import Any

import fastapi
import gradio as gr
import gradio.routes
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sana_jax.diffusion import samplers
from sana_jax.errors import UserError
from sana_jax.inference import api, demo, guard
from sana_jax.inference.album import Album, SECONDS
from sana_jax.inference.demo import DrawRequest, Limits
from sana_jax.inference.request_queue import RequestQueue, Stopped

OWN = 'own'  # Aspect of any other width and height.
NOWHERE = os.path.join(os.devnull, 'gradio')  # No folder can be created there.
_STYLE = '.gradio-container { max-width: 1240px !important; }'
_RANDOM = '() => Math.floor(Math.random() * 2 ** 31)'


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
    mounted = _mounted(blocks)
  start = DrawRequest(*(widget.value for widget in inputs))._replace(
    negative_prompt='', num_images=1
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


def _mounted(blocks):
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
    css=_STYLE,
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
    inputs, draw, stop, outputs = _layout(pipe, settings, limits)
    triggers = [draw.click, inputs[0].submit]
    gr.on(triggers, None, None, outputs[1], js="() => ''")
    drawing = gr.on(
      triggers,
      _drawing(pipe, model, limits, line, album),
      inputs,
      outputs,
      concurrency_limit=None,
      api_visibility='private',
      show_progress_on=outputs[0],
    )
    stop.click(None, None, None, cancels=[drawing])
    stop.click(None, None, outputs[1], js="() => 'Stopped.'")

    async def leave(request: gr.Request):
      line.leave(request.session_hash)
      album.drop(request.session_hash)

    blocks.unload(leave)  # The tab was closed.
  # The queue is `line`; gradio's must not be shorter.
  blocks.max_threads = line.most + 24
  blocks.queue(max_size=line.most)
  # Otherwise each failed request builds a pandas table of all previous ones.
  blocks._queue.compute_analytics_summary = lambda records: None
  (event,) = (i for i, fn in blocks.fns.items() if fn.inputs == inputs)
  return blocks, event, inputs


def _layout(pipe, settings, limits):
  """(inputs in the order of DrawRequest, both buttons, outputs)."""
  with gr.Row():
    with gr.Column(min_width=420):
      prompt, negative = _words()
      with gr.Row():
        draw = gr.Button('Draw', variant='primary', elem_id='draw')
        stop = gr.Button('Stop', elem_id='stop')
      width, height = _sides(pipe, limits)
      steps, guidance, count, sampler = _choices(settings, limits)
      seed = _seed()
    with gr.Column(min_width=420):
      gallery = gr.Gallery(
        label='Pictures',
        columns=2,
        height=600,
        object_fit='contain',
        buttons=['download', 'download_all', 'fullscreen'],
        elem_id='gallery',
        interactive=False,
      )
      status = gr.Markdown(elem_id='status')
  inputs = [
    prompt,
    negative,
    width,
    height,
    steps,
    guidance,
    seed,
    count,
    sampler,
  ]
  for widget in inputs:
    # demo.check reports all problems at once, with our messages.
    widget.preprocess = lambda value: value
  return inputs, draw, stop, [gallery, status]


def _words():
  """The boxes for the prompt and the negative prompt."""
  prompt = gr.Textbox(
    label='Prompt',
    lines=2,
    max_lines=6,
    autofocus=True,
    placeholder='a red circle left of a blue square',
    elem_id='prompt',
  )
  negative = gr.Textbox(
    label='Negative prompt',
    max_lines=3,
    placeholder='what to avoid',
    elem_id='negative-prompt',
  )
  return prompt, negative


def _sides(pipe, limits):
  """Width and height, set by the aspect."""
  sizes = demo.sizes(pipe, limits)
  first = next(iter(sizes), OWN)
  side = pipe.autoencoder.module.spec.side
  with gr.Row():
    aspect = gr.Dropdown(
      [*sizes, OWN],
      value=first,
      label='Aspect',
      filterable=False,
      min_width=100,
      elem_id='aspect',
    )
    width, height = (
      gr.Number(
        value,
        label=f'{label} (px)',
        step=side,
        min_width=100,
        elem_id=label.lower(),
      )
      for label, value in zip(
        ('Width', 'Height'), sizes.get(first, (side, side))
      )
    )
  aspect.input(
    None,
    [aspect, width, height],
    [width, height],
    js=(f'(label, ...size) => ({json.dumps(sizes)})[label] ?? size'),
  )
  for number in (width, height):
    number.input(None, None, aspect, js=f"() => '{OWN}'")
  return width, height


def _choices(settings, limits):
  """Steps, guidance, number of images and sampler."""
  with gr.Row():
    steps = gr.Slider(
      1,
      limits.steps,
      min(settings['steps'], limits.steps),
      step=1,
      label='Steps',
      min_width=180,
      elem_id='steps',
    )
    guidance = gr.Slider(
      0,
      max(20, settings['guidance_scale']),
      settings['guidance_scale'],
      step=0.1,
      label='Guidance',
      min_width=180,
    )
  with gr.Row():
    count = gr.Slider(
      1,
      limits.images,
      min(4, limits.images),
      step=1,
      label='Images',
      min_width=180,
    )
    sampler = gr.Dropdown(
      list(samplers.NAMES),
      value=settings['sampler'],
      label='Sampler',
      filterable=False,
      min_width=180,
    )
  return steps, guidance, count, sampler


def _seed():
  """The seed, with a button that draws one."""
  another = gr.Button('Random', render=False)
  seed = gr.Number(0, label='Seed', buttons=[another], elem_id='seed')
  another.click(None, None, seed, js=_RANDOM)
  return seed


def _drawing(pipe, model, limits, line, album):
  """Handler of the button, which returns (pictures with captions, report)."""

  async def draw(
    prompt,
    negative_prompt,
    width,
    height,
    steps,
    guidance_scale,
    seed,
    num_images,
    sampler,
    request: gr.Request,
    progress=gr.Progress(),  # noqa: B008
  ):
    def work(stop):
      progress(0, desc='Encoding the prompt; a new size is compiled first')
      return demo.drawn(pipe, checked, limits, model, stop, on_step)

    def on_step(done):
      progress(
        (done, checked.steps),
        unit='steps',
        desc=('Step' if done < checked.steps else 'Decoding'),
      )

    def on_place(place, length):
      progress(0, desc=f'Place {place} of {length} in the queue')

    try:
      checked = demo.check(
        pipe,
        DrawRequest(
          prompt,
          negative_prompt,
          width,
          height,
          steps,
          guidance_scale,
          seed,
          num_images,
          sampler,
        ),
        limits,
      )
      files, report = await line.run(work, request.session_hash, on_place)
    except UserError as e:
      raise gr.Error(
        html.escape(str(e), quote=False),
        duration=None,
        title='Not possible',
        print_exception=False,
      ) from e
    except Stopped:
      return [], 'Stopped.'
    # A full URL: gradio interprets any other text as a file name.
    root = request.headers[guard.ORIGIN] + '/pictures/'
    paths = album.add(request.session_hash, files)
    return [
      (root + path, file.caption) for path, file in zip(paths, files)
    ], report

  return draw


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
