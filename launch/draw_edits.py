"""Picture of image edits for the docs, by the shipped models."""

from typing import Any, NamedTuple

import numpy as np

from sana_jax.tools import plots

CAPTION = 'a red circle is left of a blue square'
NEW = 'a red circle is left of a green star'
ALL_NEW = 'a yellow triangle is left of a green star'


class Panel(NamedTuple):
  """A picture, its title, and the call that draws it."""

  title: str
  prompt: str
  settings: dict[str, Any]
  model: str = 'shapes'


def panels(mask: np.ndarray) -> list[Panel]:
  """Calls that start from the image of the first panel."""
  return [
    Panel('mask', NEW, {'mask': mask}),
    Panel('mask, Sprint in 2 steps', NEW, {'mask': mask}, 'shapes-sprint'),
    Panel('strength 0', ALL_NEW, {'strength': 0}),
    Panel('strength 0.2', ALL_NEW, {'strength': 0.2}),
    Panel('strength 0.4', ALL_NEW, {'strength': 0.4}),
    Panel('strength 1', ALL_NEW, {'strength': 1}),
  ]


def edits() -> bytes:
  """PNG of an image, its mask, and pictures that start from it."""
  from sana_jax.data.shapes import compose, meaning, render
  from sana_jax.inference.pipeline import Pipeline

  image = render(
    compose(meaning(CAPTION), CAPTION, np.random.default_rng(0)), 128
  )
  mask = np.zeros(image.shape[:2], bool)
  mask[24:108, 66:124] = True
  shown = image.copy()
  shown[mask] = shown[mask] // 2 + np.array([90, 20, 70], np.uint8)
  shots = [('image', image), ('image and mask', shown)]
  opened = {}
  for panel in panels(mask):
    if panel.model not in opened:
      opened[panel.model] = Pipeline.from_pretrained(panel.model, encoder=True)
    (drawn,) = opened[panel.model](
      panel.prompt,
      image=image,
      seed=0,
      output_type='uint8',
      **panel.settings,
    ).images
    shots.append((panel.title, drawn))
  figure = plots.figure(1.6 * len(shots) / 2, 3.6)
  for i, (title, drawn) in enumerate(shots, 1):
    axes = figure.add_subplot(2, len(shots) // 2, i)
    axes.imshow(drawn)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=7)
  return plots.png(figure)
