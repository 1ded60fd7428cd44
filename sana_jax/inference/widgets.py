"""Widgets of the demo's page, and their places.

The order in the document is that of the keyboard and of narrow windows: prompt,
pictures, settings. In wide ones the pictures stand beside the two others.
"""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple

import gradio as gr

from sana_jax import assets
from sana_jax.diffusion import samplers
from sana_jax.inference import (
  demo,
  demo_adapters,
  demo_control,
  editing,
  few_steps,
  view,
)
from sana_jax.inference.demo import Limits

OWN = 'own'  # Aspect of any other width and height.
_FOLDER = pathlib.Path(assets.__file__).parent / 'demo'
# For models without a list of words.
_EXAMPLES = (
  'a lighthouse on a cliff at dusk, oil painting',
  'a red fox in fresh snow, close-up photo',
  'a street market in the rain, neon signs, wide shot',
  'an astronaut riding a horse on the moon',
  'a cup of tea beside an open book, soft morning light',
)


class Widgets(NamedTuple):
  """Widgets with events.

  Attributes:
    inputs: in the order of demo.keys.
    outputs: in the order of view.View.
    restored: set by the page's scripts (page.js), in its order.
  """

  draw: gr.Button
  stop: gr.Button
  restore: gr.Button
  inputs: list
  outputs: list
  restored: list


def part(name: str) -> str:
  """Text of a file of the page."""
  return (_FOLDER / name).read_text('utf-8')


def layout(pipe, settings: Mapping[str, Any], limits: Limits) -> Widgets:
  """Adds all widgets to the current page."""
  with gr.Row(elem_id='layout'):
    with gr.Column(elem_id='request'):
      prompt = _prompt(pipe.vocabulary.examples or _EXAMPLES)
      with gr.Row():
        draw = gr.Button('Draw', variant='primary', elem_id='draw')
        stop = gr.Button('Stop', elem_id='stop')
      if few_steps.is_sprint(pipe.transformer.module):
        gr.Checkbox(
          True,
          label='Draw while typing',
          interactive=True,  # No event of the page has it.
          elem_id='typing',
        )
      gr.HTML('<div role="alert"></div>', elem_id='messages')
    with gr.Column(elem_id='result'):
      progress = gr.HTML(elem_id='progress')
      status = gr.HTML(elem_id='status')
      pictures = gr.HTML(elem_id='pictures')
      gr.HTML(part('history.html'), elem_id='history')
      error = gr.HTML(visible='hidden', elem_id='error')
    with gr.Column(elem_id='settings'):
      negative = _negative()
      gr.HTML(part('edit.html'), elem_id='edit')
      edit = [*_edit(), *_control(pipe)]
      aspect, *size = _sides(pipe, limits)
      steps, guidance, count, sampler = _choices(settings, limits)
      weights = _weights(pipe)
      seed, keep = _seed()
      gr.HTML(part('drop.html'), elem_id='drop')
      restore = gr.Button('Restore', visible='hidden', elem_id='restore')
  inputs = [
    prompt,
    negative,
    *size,
    steps,
    guidance,
    seed,
    count,
    sampler,
    *edit,
    *weights,
  ]
  for widget in inputs:
    # demo.check reports all problems at once, with our messages.
    widget.preprocess = lambda value: value
  outputs = [pictures, progress, status, error, seed]
  restored = [*inputs, aspect, keep, *outputs[:3]]
  return Widgets(draw, stop, restore, inputs, outputs, restored)


def _prompt(examples):
  prompt = gr.Textbox(
    label='Prompt',
    lines=2,
    max_lines=6,
    autofocus=True,
    placeholder=examples[-1],
    elem_id='prompt',
  )
  gr.HTML(view.examples(examples), elem_id='examples')
  return prompt


def _negative():
  return gr.Textbox(
    label='Negative prompt',
    max_lines=3,
    placeholder='what to avoid',
    elem_id='negative-prompt',
  )


def _sides(pipe, limits):
  """Aspect, width and height; each sets the other."""
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
    js='(label, ...size) => sana.size(label) ?? size',
  )
  for number in (width, height):
    number.input(None, None, aspect, js=f"() => '{OWN}'")
  return aspect, width, height


def _edit():
  """Image and mask, which edit.js fills in, strength and blur."""
  image, mask = (
    gr.Textbox('', visible='hidden', elem_id=f'{name}-file')
    for name in ('image', 'mask')
  )
  with gr.Row(elem_id='edit-numbers'):
    strength = gr.Slider(
      0,
      1,
      editing.STRENGTH,
      step=0.05,
      label='Strength',
      min_width=180,
      elem_id='strength',
    )
    blur = gr.Slider(
      0,
      32,
      0,
      step=1,
      label='Mask blur (px)',
      min_width=180,
      elem_id='mask-blur',
    )
  return image, mask, strength, blur


def _control(pipe):
  """Control image, which control.js fills in, and how it is used."""
  if not pipe.controlnets:
    return []
  gr.HTML(part('control.html'), elem_id='control')
  image = gr.Textbox('', visible='hidden', elem_id='control-file')
  with gr.Column(elem_id='control-numbers'):
    kind = gr.Dropdown(
      list(demo_control.KINDS.items()),
      value='',
      label='Use the control image',
      filterable=False,
      elem_id='control-kind',
    )
    with gr.Row():
      numbers = [
        gr.Slider(
          0,
          most,
          value,
          step=0.05,
          label=label,
          min_width=120,
          elem_id=f'control-{label.lower()}',
        )
        for label, most, value in (
          ('Scale', demo_control.MOST_SCALE, 1.0),
          ('Start', 1, 0.0),
          ('End', 1, 1.0),
        )
      ]
  return image, kind, *numbers


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
      elem_id='guidance',
    )
  with gr.Row():
    count = gr.Slider(
      1,
      limits.images,
      min(4, limits.images),
      step=1,
      label='Images',
      min_width=180,
      elem_id='images',
    )
    sampler = gr.Dropdown(
      list(samplers.NAMES),
      value=settings['sampler'],
      label='Sampler',
      filterable=False,
      min_width=180,
      elem_id='sampler',
    )
  return steps, guidance, count, sampler


def _weights(pipe):
  """A weight of each adapter."""
  found = demo_adapters.own(pipe)
  if not found:
    return []
  with gr.Row():
    return [
      gr.Slider(
        min(0.0, weight),
        max(demo_adapters.MOST_SHOWN, weight),
        weight,
        step=0.05,
        label=f'Adapter {name}',
        info='0 turns it off.',
        min_width=180,
        elem_id=f'lora-{i}',
      )
      for i, (name, weight) in enumerate(found.items())
    ]


def _seed():
  """The seed, with a button that draws one, and whether to keep it."""
  another = gr.Button('Random', render=False)
  with gr.Row():
    seed = gr.Number(0, label='Seed', buttons=[another], elem_id='seed')
    keep = gr.Checkbox(
      label='Keep the seed',
      info='Otherwise each drawing has a new one.',
      elem_id='keep',
    )
  another.click(None, None, [seed, keep], js='() => [sana.seed(), true]')
  seed.input(None, None, keep, js='() => true')
  return seed, keep
