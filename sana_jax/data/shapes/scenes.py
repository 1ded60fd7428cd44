"""Scenes of `shapes`: a pure function of seed, split and index.

Positions are fractions of the image's side, x to the right and y down. The
layout is a jittered grid, which a small model learns many times faster than
free positions: one object near the centre, two side by side or stacked, three
in a triangle, four in a square.
"""

from collections.abc import Mapping
import dataclasses
import types

import numpy as np

from sana_jax.data.shapes.captions import (
  captions,
  COLORS,
  Requirement,
  SPLITS,
)

# Frequency of each kind; attribution and position are learnt last.
WEIGHTS = types.MappingProxyType(
  {
    'single': 0.08,
    'two': 0.18,
    'counting': 0.18,
    'colors': 0.12,
    'position': 0.22,
    'attribution': 0.22,
  }
)
NEAR, FAR = 0.27, 0.73
_SIDE_BY_SIDE = ((NEAR, 0.5), (FAR, 0.5))
_STACKED = ((0.5, NEAR), (0.5, FAR))
_THREE = ((0.5, NEAR), (NEAR, FAR), (FAR, FAR))
_FOUR = ((NEAR, NEAR), (FAR, NEAR), (NEAR, FAR), (FAR, FAR))


@dataclasses.dataclass(frozen=True)
class Object:
  """An object: centre of its bounding box and half of the box's width."""

  shape: str
  color: str
  x: float
  y: float
  radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """Content of an image; `background` is a grey level of 0 to 255."""

  kind: str
  caption: str
  objects: tuple[Object, ...]
  requirement: Requirement
  background: int


def scene(
  seed: int,
  split: str,
  index: int,
  *,
  weights: Mapping[str, float] = WEIGHTS,
) -> Scene:
  """Scene `index` of a split, independent of other scenes and of the size."""
  rng = np.random.default_rng((seed, SPLITS.index(split), index))
  kinds, shares = zip(*weights.items())
  kind = str(rng.choice(kinds, p=np.divide(shares, sum(shares))))
  choices = captions(kind, split)
  requirement, texts = choices[rng.integers(len(choices))]
  caption = texts[rng.integers(len(texts))]
  return compose(requirement, caption, rng)


def compose(
  requirement: Requirement, caption: str, rng: np.random.Generator
) -> Scene:
  """Draws a scene that shows the requirement and no other objects."""
  named = []
  for want in requirement.wants:
    color = want.color or COLORS[rng.integers(len(COLORS))]
    named += [(want.shape, color)] * want.count
  objects = []
  for (shape, color), (x, y) in zip(
    named, _layout(len(named), requirement.relation, rng)
  ):
    jitter, small, large = (
      (0.06, 0.20, 0.26) if len(named) == 1 else (0.03, 0.15, 0.18)
    )
    x, y = np.array([x, y]) + rng.uniform(-jitter, jitter, 2)
    objects.append(
      Object(shape, color, float(x), float(y), float(rng.uniform(small, large)))
    )
  return Scene(
    requirement.kind,
    caption,
    tuple(objects),
    requirement,
    int(rng.integers(224, 241)),
  )


def _layout(count, relation, rng):
  """Positions in the order of the wanted objects."""
  if count == 2:
    if relation == 'left of':
      return _SIDE_BY_SIDE
    if relation == 'above':
      return _STACKED
    places = (_SIDE_BY_SIDE, _STACKED)[rng.integers(2)]
    return places[::-1] if rng.integers(2) else places
  return {1: ((0.5, 0.5),), 3: _THREE, 4: _FOUR}[count]
