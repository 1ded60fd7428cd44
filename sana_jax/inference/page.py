"""The demo's web page, in Gradio, as an ASGI application.

Nothing leaves the machine: no telemetry, no share links, and the browser is
told to load nothing from elsewhere. Gradio gets only what the guard passes on
(guard.py), and it has no folder to write to.
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
from sana_jax.inference.demo import Asked, Limits
from sana_jax.inference.line import Line, Stopped

OWN = 'own'  # The choice of aspect for any other width and height.
NOWHERE = os.path.join(os.devnull, 'gradio')  # No folder can be made there.
_STYLE = '.gradio-container { max-width: 1240px !important; }'
_RANDOM = '() => Math.floor(Math.random() * 2 ** 31)'


def app(
  pipe,
  settings: Mapping[str, Any],
  model: str,
  limits: Limits,
  line: Line,
  served: Iterable[str],
) -> Callable:
  """The application behind its guard.

  Args:
    settings: steps, guidance_scale and sampler that the page starts with.
    served: host names, as `hosts.name` returns them.
  """
  album = Album()
  os.environ['GRADIO_TEMP_DIR'] = NOWHERE
  with _folder():
    blocks, event, inputs = _page(pipe, settings, model, limits, line, album)
    mounted = _mounted(blocks)
  start = Asked(*(widget.value for widget in inputs))._replace(
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
  # As after launch(), else gradio copies any file that a request names.
  blocks.has_launched = blocks.is_running = True
  return mounted


@contextlib.contextmanager
def _folder():
  """Lets Gradio make the folder that it wants at first, and removes it."""
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
    asking = [draw.click, inputs[0].submit]
    gr.on(asking, None, None, outputs[1], js="() => ''")
    drawing = gr.on(
      asking,
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
  # The queue is `line`; gradio's must not be the shorter one.
  blocks.max_threads = line.most + 24
  blocks.queue(max_size=line.most)
  # Else each failed request makes a table of all before it, in pandas.
  blocks._queue.compute_analytics_summary = lambda records: None
  (event,) = (i for i, fn in blocks.fns.items() if fn.inputs == inputs)
  return blocks, event, inputs


def _layout(pipe, settings, limits):
  """(inputs in the order of Asked, both buttons, outputs)."""
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
      said = gr.Markdown(elem_id='said')
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
    # demo.check says what is wrong, all at once and in our words.
    widget.preprocess = lambda value: value
  return inputs, draw, stop, [gallery, said]


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
  """Width and height, which a choice of aspect sets."""
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
  """Function of the button: (pictures with captions, report)."""

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
      progress(0, desc='Reading the prompt; a new size is compiled first')
      return demo.drawn(pipe, asked, limits, model, stop, on_step)

    def on_step(done):
      progress(
        (done, asked.steps),
        unit='steps',
        desc=('Step' if done < asked.steps else 'Making pixels of it'),
      )

    def on_place(place, length):
      progress(0, desc=f'Place {place} of {length} in the queue')

    try:
      asked = demo.check(
        pipe,
        Asked(
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
    # An address in full: gradio takes any other text for the name of a file.
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
        'This picture is no longer kept.', 404, media_type='text/plain'
      )
    return Response(
      content,
      media_type='image/png',
      headers={'cache-control': f'private, max-age={SECONDS}, immutable'},
    )

  return picture
