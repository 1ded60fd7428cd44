"""Overlap of the objects in an image with those of a scene that controls it.

  score = sum of IoU of matched pairs / max(objects in scene, objects in image)

Pairs are matched for the largest sum, by their masks alone: shapes and colours
are scored by shapes_suite.py. An unmatched object on either side counts 0.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy import ndimage, optimize

from sana_jax.data.shapes import controls, KINDS, Scene, scene
from sana_jax.evaluation import shapes_suite
from sana_jax.evaluation.shapes_detector import (
  contrast,
  detect,
  FOREGROUND,
  MIN_AREA,
)
from sana_jax.typing import Bool, Image


@dataclasses.dataclass(frozen=True)
class Score:
  """Means over images: overlap with the scenes, and prompts followed."""

  overlap: float
  accuracy: float
  images: int


def suite(per_kind: int, seed: int = 0, layout: str = 'free') -> list[Scene]:
  """Held-out scenes, as many of each kind."""
  return [
    scene(seed, 'heldout', i, weights={kind: 1.0}, layout=layout)
    for kind in KINDS
    for i in range(per_kind)
  ]


def score(images: Sequence[Image], scenes: Sequence[Scene]) -> Score:
  """Score of one image for each scene."""
  return Score(
    float(np.mean([overlap(s, x) for s, x in zip(scenes, images)])),
    float(
      np.mean(
        [
          shapes_suite.follows(s.requirement, detect(x))
          for s, x in zip(scenes, images)
        ]
      )
    ),
    len(images),
  )


def overlap(scene: Scene, image: Image) -> float:
  """Mean IoU of matched objects of a square image, from 0 to 1."""
  wanted, found = object_masks(scene, len(image)), component_masks(image)
  if not len(found):
    return 0.0
  both = np.einsum('iyx,jyx->ij', wanted.astype(int), found.astype(int))
  either = wanted.sum((1, 2))[:, None] + found.sum((1, 2)) - both
  iou = both / either
  pairs = optimize.linear_sum_assignment(iou, maximize=True)
  return float(iou[pairs].sum() / max(iou.shape))


def object_masks(scene: Scene, size: int) -> Bool[np.ndarray, 'n y x']:
  """Mask of each object of a scene."""
  alone = (
    dataclasses.replace(scene, objects=(thing,)) for thing in scene.objects
  )
  return np.stack(
    [contrast(controls.masks(one, size)) > FOREGROUND for one in alone]
  )


def component_masks(image: Image) -> Bool[np.ndarray, 'n y x']:
  """Masks of the connected components of an image, without specks."""
  labels, count = ndimage.label(contrast(image) > FOREGROUND)
  masks = labels == np.arange(1, count + 1)[:, None, None]
  return masks[masks.sum((1, 2)) >= MIN_AREA * labels.size]
