"""Exact control images of scenes: filled silhouettes, or outlines.

They have one colour of the palette on the grey of the data, which the
autoencoder of `shapes` keeps; it was never trained on white lines on black.
"""

import dataclasses

from sana_jax.data.shapes.render import render
from sana_jax.data.shapes.scenes import Scene
from sana_jax.typing import Image

COLOR, BACKGROUND = 'blue', 232
STROKE = 0.05  # Fraction of the side.


def masks(scene: Scene, size: int) -> Image:
  """Silhouettes of the objects of a scene."""
  return render(_marked(scene), size)


def edges(scene: Scene, size: int) -> Image:
  """Outlines of the objects of a scene."""
  return render(_marked(scene), size, STROKE)


def _marked(scene):
  """The scene in one colour: a control image has no hint of the others."""
  objects = (dataclasses.replace(x, color=COLOR) for x in scene.objects)
  return dataclasses.replace(
    scene, objects=tuple(objects), background=BACKGROUND
  )
