"""Antialiased rendering of a scene, with the same geometry at any size.

By symmetry, folding the angle around the centre of a regular polygon or star
into half of one point reduces the signed distance to the outline to the
distance to a single line. The coverage of a pixel is that distance, clipped to
one pixel, which is exact along straight edges.
"""

import math

import numpy as np

from sana_jax.data.shapes.scenes import Scene
from sana_jax.typing import Float, Image

PALETTE = {
  'red': (220, 40, 40),
  'green': (40, 160, 60),
  'blue': (40, 80, 220),
  'yellow': (245, 215, 40),
  'purple': (140, 50, 180),
  'orange': (245, 120, 20),
}
# Points, radius of the inner corners (relative to 1), rotation from "up".
_POLYGONS = {
  'triangle': (3, math.cos(math.pi / 3), 0.0),
  'square': (4, math.cos(math.pi / 4), math.pi / 4),
  'diamond': (4, math.cos(math.pi / 4), 0.0),
  'hexagon': (6, math.cos(math.pi / 6), 0.0),
  # A pentagram: its edges are the diagonals of a pentagon.
  'star': (5, math.cos(2 * math.pi / 5) / math.cos(math.pi / 5), 0.0),
}


def render(scene: Scene, size: int) -> Image:
  """The scene as size x size pixels."""
  image = np.full((size, size, 3), scene.background, np.float32)
  for thing in scene.objects:
    reach = thing.radius + 2 / size
    x0, x1, y0, y1 = (
      min(max(math.floor((at + step) * size), 0), size)
      for at in (thing.x, thing.y)
      for step in (-reach, reach)
    )
    x = (np.arange(x0, x1, dtype=np.float32) + 0.5) / size - thing.x
    y = (np.arange(y0, y1, dtype=np.float32) + 0.5) / size - thing.y
    distance = outline_distance(
      thing.shape, x / thing.radius, y[:, None] / thing.radius
    )
    share = np.clip(0.5 - distance * (thing.radius * size), 0, 1)[..., None]
    window = image[y0:y1, x0:x1]
    window += share * (np.float32(PALETTE[thing.color]) - window)
  return np.rint(image).astype(np.uint8)


def outline_distance(
  shape: str, x: Float[np.ndarray, '*x'], y: Float[np.ndarray, '*y']
) -> Float[np.ndarray, '...']:
  """Signed distance to an outline with a centred box 2 wide (inside < 0)."""
  if shape == 'circle':
    return np.hypot(x, y) - 1
  points, inner, turn = _POLYGONS[shape]
  scale, middle = _FRAMES[shape]
  x, y = x * scale, y * scale + middle
  half = math.pi / points
  angle = np.arctan2(x, -y) + turn
  folded = np.abs((angle + half) % (2 * half) - half)
  radius = np.hypot(x, y)
  # The edge runs from the corner (1, 0) to the inner corner.
  dx, dy = inner * math.cos(half) - 1, inner * math.sin(half)
  length = math.hypot(dx, dy)
  across = (radius * np.cos(folded) - 1) * dy - radius * np.sin(folded) * dx
  return across / (length * scale)


def _frame(shape):
  """Circumradius and centre of an outline whose box is 2 wide and centred."""
  points, _, turn = _POLYGONS[shape]
  angles = 2 * np.pi * np.arange(points) / points + turn
  x, y = np.sin(angles), -np.cos(angles)
  return float(np.ptp(x)) / 2, float(y.min() + y.max()) / 2


_FRAMES = {shape: _frame(shape) for shape in _POLYGONS}
