"""Scenes of `shapes`: a pure function of seed, split and index.

Positions are fractions of the image's side, x to the right and y down. The
layout is a jittered grid, which a small model learns many times faster than
free positions: one object near the centre, two side by side or stacked, three
in a triangle, four in a square. For ControlNets positions are free (free.py): a
caption alone does not determine where things are.
"""

from collections.abc import Mapping
import dataclasses
import types
from typing import Any

import numpy as np

from sana_jax.data.shapes import free
from sana_jax.data.shapes.captions import (
  captions,
  COLORS,
  Requirement,
  SPLITS,
  Want,
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
LAYOUTS = ('grid', 'free')
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
  layout: str = 'grid',
) -> Scene:
  """Scene `index` of a split, independent of other scenes and of the size."""
  rng = np.random.default_rng((seed, SPLITS.index(split), index))
  kinds, shares = zip(*weights.items())
  kind = str(rng.choice(kinds, p=np.divide(shares, sum(shares))))
  choices = captions(kind, split)
  requirement, texts = choices[rng.integers(len(choices))]
  caption = texts[rng.integers(len(texts))]
  return compose(requirement, caption, rng, layout)


def compose(
  requirement: Requirement,
  caption: str,
  rng: np.random.Generator,
  layout: str = 'grid',
) -> Scene:
  """Draws a scene that shows the requirement and no other objects.

  `layout` is one of LAYOUTS.
  """
  named = []
  for want in requirement.wants:
    color = want.color or COLORS[rng.integers(len(COLORS))]
    named += [(want.shape, color)] * want.count
  places = {'grid': _grid, 'free': free.places}[layout](
    len(named), requirement.relation, rng
  )
  return Scene(
    requirement.kind,
    caption,
    tuple(Object(*name, *place) for name, place in zip(named, places)),
    requirement,
    int(rng.integers(224, 241)),
  )


def _grid(count, relation, rng):
  """(x, y, radius) of each object on the jittered grid."""
  jitter, small, large = (
    (0.06, 0.20, 0.26) if count == 1 else (0.03, 0.15, 0.18)
  )
  places = []
  for x, y in _layout(count, relation, rng):
    x, y = np.array([x, y]) + rng.uniform(-jitter, jitter, 2)
    places.append((float(x), float(y), float(rng.uniform(small, large))))
  return places


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


def from_json(value: Mapping[str, Any]) -> Scene:
  """Scene of its JSON object, as stored by the builder."""
  wants = tuple(Want(**want) for want in value['requirement']['wants'])
  return Scene(
    **{
      **value,
      'objects': tuple(Object(**thing) for thing in value['objects']),
      'requirement': Requirement(**{**value['requirement'], 'wants': wants}),
    }
  )
