"""Free positions and radii of the objects of a scene, without overlap."""

import numpy as np

GAP = 0.03  # Least distance between boxes and to the border.
# Least and greatest radius by number of objects.
_RADII = {1: (0.18, 0.28), 2: (0.15, 0.22), 3: (0.145, 0.18), 4: (0.14, 0.17)}
_TRIES = 20  # Places for one object before all are drawn again.


def places(
  count: int, relation: str | None, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
  """(x, y, radius) of each object; boxes are inside and do not touch.

  With a relation, 'left of' or 'above', the first of two objects is on that
  side of the second by more than along the other axis.
  """
  while True:
    found = _try(count, rng)
    if found and relation:
      axis = 0 if relation == 'left of' else 1
      found = sorted(found, key=lambda place: place[axis])
      offset = np.abs(np.subtract(*(place[:2] for place in found)))
      found = found if offset[axis] > offset[1 - axis] + GAP else None
    if found:
      return found


def _try(count, rng):
  """Places for `count` objects; None if one has no room."""
  found = []
  for _ in range(count):
    for _ in range(_TRIES):
      radius = rng.uniform(*_RADII[count])
      x, y = rng.uniform(GAP + radius, 1 - GAP - radius, 2)
      if all(
        max(abs(x - a), abs(y - b)) > radius + r + GAP for a, b, r in found
      ):
        found.append((float(x), float(y), float(radius)))
        break
    else:
      return None
  return found
