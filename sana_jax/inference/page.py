"""The demo's web page, in Gradio, as an ASGI application.

Nothing leaves the machine: no telemetry, no share links, and the browser is
told to load nothing from elsewhere.
"""

from collections.abc import Callable, Mapping
import html
import os
import pathlib
import threading
import time
from typing import Any
import uuid

import fastapi
import gradio as gr
from starlette.responses import PlainTextResponse

from sana_jax.diffusion import samplers
from sana_jax.errors import UserError
from sana_jax.inference import demo
from sana_jax.inference.demo import Asked, Limits

OWN = 'own'  # The choice of aspect for any other width and height.
_KEPT_SECONDS = 3600  # Pictures stay on the server for an hour.
# Gradio's scripts and styles are inline and made at run time.
_POLICY = (b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
           b"frame-ancestors 'self'; base-uri 'self'; form-action 'self'")
_STYLE = '.gradio-container { max-width: 1240px !important; }'
_RANDOM = '() => Math.floor(Math.random() * 2 ** 31)'


class Stopped(Exception):
  """The user stopped the run or closed the page."""


def app(
  pipe, settings: Mapping[str, Any], model: str, limits: Limits, queue: int,
  folder: pathlib.Path,
) -> Callable:
  """The application; `folder` holds the pictures that it serves.

  Args:
    settings: steps, guidance_scale and sampler that the page starts with.
    queue: requests that may wait.
  """
  os.environ['GRADIO_TEMP_DIR'] = str(folder)  # Files there are not copied.
  running = {}  # By session: the event that stops what it draws.
  with gr.Blocks(
      title=f'SANA: {model}', analytics_enabled=False,
      delete_cache=(_KEPT_SECONDS // 6, _KEPT_SECONDS)) as blocks:
    gr.Markdown(f'# SANA in JAX\n`{html.escape(model)}` draws what you '
                'describe. The same words, seed and settings give the same '
                'picture.')
    inputs, draw, stop, outputs = _layout(pipe, settings, limits)
    asking = [draw.click, inputs[0].submit]
    gr.on(asking, lambda: '', None, outputs[1], queue=False,
          api_visibility='private')
    drawing = gr.on(
      asking, _drawing(pipe, model, limits, folder, running), inputs, outputs,
      api_name='draw', concurrency_limit=1, show_progress_on=outputs[0])
    stopping = _stopping(running)
    stop.click(stopping, cancels=[drawing], queue=False,
               api_visibility='private')
    stop.click(lambda: 'Stopped.', None, outputs[1], queue=False,
               api_visibility='private')
    blocks.unload(stopping)  # The tab was closed.
  blocks.queue(max_size=queue)
  return guarded(gr.mount_gradio_app(
    fastapi.FastAPI(), blocks, '/', footer_links=[], run_history=False,
    ssr_mode=False, show_error=False, mcp_server=False, pwa=False,
    enable_monitoring=False, css=_STYLE, theme=gr.themes.Default(
      font=['system-ui', 'sans-serif'], font_mono=['monospace'])))


def guarded(app: Callable) -> Callable:
  """The application without uploads, and with a policy for the browser."""
  async def application(scope, receive, send):
    if scope['type'] == 'http' and scope['path'].endswith('/upload'):
      refusal = PlainTextResponse('Nothing can be uploaded here.', 403)
      await refusal(scope, receive, send)
      return

    async def send_with_policy(message):
      if message['type'] == 'http.response.start':
        message.setdefault('headers', []).append(
          (b'content-security-policy', _POLICY))
      await send(message)
    await app(scope, receive, send_with_policy)
  return application


def _layout(pipe, settings, limits):
  """(inputs in the order of Asked, both buttons, outputs)."""
  sizes = demo.sizes(pipe, limits)
  first = next(iter(sizes), OWN)
  side = pipe.autoencoder.module.compression
  with gr.Row():
    with gr.Column(min_width=420):
      prompt = gr.Textbox(
        label='Prompt', lines=2, max_lines=6, autofocus=True,
        placeholder='a red circle left of a blue square', elem_id='prompt')
      negative = gr.Textbox(
        label='Negative prompt', max_lines=3, placeholder='what to avoid',
        elem_id='negative-prompt')
      with gr.Row():
        draw = gr.Button('Draw', variant='primary', elem_id='draw')
        stop = gr.Button('Stop', elem_id='stop')
      with gr.Row():
        aspect = gr.Dropdown([*sizes, OWN], value=first, label='Aspect',
                             filterable=False, min_width=100, elem_id='aspect')
        width, height = (
          gr.Number(value, label=f'{label} (px)', step=side, min_width=100,
                    elem_id=label.lower())
          for label, value in zip(
            ('Width', 'Height'), sizes.get(first, (side, side))))
      with gr.Row():
        steps = gr.Slider(1, limits.steps, min(settings['steps'], limits.steps),
                          step=1, label='Steps', min_width=180, elem_id='steps')
        guidance = gr.Slider(
          0, max(20, settings['guidance_scale']), settings['guidance_scale'],
          step=0.1, label='Guidance', min_width=180)
      with gr.Row():
        count = gr.Slider(1, limits.images, min(4, limits.images), step=1,
                          label='Images', min_width=180)
        sampler = gr.Dropdown(
          list(samplers.NAMES), value=settings['sampler'], label='Sampler',
          filterable=False, min_width=180)
      another = gr.Button('Random', render=False)
      seed = gr.Number(0, label='Seed', buttons=[another], elem_id='seed')
    with gr.Column(min_width=420):
      gallery = gr.Gallery(
        label='Pictures', columns=2, height=600, object_fit='contain',
        buttons=['download', 'download_all', 'fullscreen'], elem_id='gallery',
        interactive=False)
      said = gr.Markdown(elem_id='said')
  aspect.input(lambda label: sizes.get(label, (gr.skip(), gr.skip())), aspect,
               [width, height], queue=False, api_visibility='private')
  for number in (width, height):
    number.input(None, None, aspect, js=f"() => '{OWN}'")
  another.click(None, None, seed, js=_RANDOM)
  inputs = [prompt, negative, width, height, steps, guidance, seed, count,
            sampler]
  for widget in inputs:
    # demo.check says what is wrong, all at once and in our words.
    widget.preprocess = lambda value: value
  return inputs, draw, stop, [gallery, said]


def _drawing(pipe, model, limits, folder, running):
  """What the button does: (files with captions, what is said of them)."""
  def draw(
    prompt, negative_prompt, width, height, steps, guidance_scale, seed,
    num_images, sampler, request: gr.Request, progress=gr.Progress(),  # noqa: B008
  ):
    asked = Asked(prompt, negative_prompt, width, height, steps, guidance_scale,
                  seed, num_images, sampler)
    stop = running[request.session_hash] = threading.Event()

    def on_step(done):
      if stop.is_set():
        raise Stopped
      progress((done, int(steps)), desc=(
        'Step' if done < steps else 'Making pixels of it'), unit='steps')

    progress(0, desc='Reading the prompt; a new size is compiled first')
    start = time.monotonic()
    try:
      files = demo.draw(pipe, asked, limits, model, on_step)
    except UserError as e:
      raise gr.Error(
        html.escape(str(e), quote=False), duration=None, title='Not possible',
        print_exception=False) from e
    except Stopped:
      return [], 'Stopped.'
    finally:
      running.pop(request.session_hash, None)
    return _written(files, folder), _report(
      pipe, asked, time.monotonic() - start)
  return draw


def _stopping(running):
  def stop(request: gr.Request):
    event = running.get(request.session_hash)
    if event is not None:
      event.set()
  return stop


def _written(files, folder):
  """[(path, caption)] in a new folder, whose name cannot be guessed."""
  folder = folder / uuid.uuid4().hex
  folder.mkdir()
  for file in files:
    (folder / file.name).write_bytes(file.content)
  return [(str(folder / file.name), file.caption) for file in files]


def _report(pipe, asked, seconds):
  count = int(asked.num_images)
  cut = (' The prompt is longer than what the model reads: its end is ignored.'
         if demo.is_cut(pipe, asked.prompt) else '')
  return (f'{count} picture{"s" if count > 1 else ""} in {seconds:.1f} s. Each '
          f'PNG holds its prompt, seed and settings.{cut}')
