"""Detector of objects in `shapes` images; exact on rendered scenes.

Foreground pixels differ from the border's median colour. Each connected
component has a colour, the nearest of the palette, and a shape, the template
with the largest overlap. Templates are rendered with the component's area and
centre of mass, and pixels are weighted by their coverage, so that stars of a
few pixels are recognized as reliably as large ones. A component with too little
overlap, such as a blob, is discarded.
"""

from collections.abc import Collection
import dataclasses

import numpy as np
from scipy import ndimage

from sana_jax.data.shapes import NEW_SHAPES, PALETTE, SHAPES
from sana_jax.data.shapes.render import outline_distance
from sana_jax.typing import Bool, Float, Image

FOREGROUND = 80.0  # Distance in RGB from the background, of at most 441.
MIN_AREA = 0.004  # Fraction of the image: a third of the smallest star.
MIN_OVERLAP = 0.72
_COLORS = np.array(list(PALETTE.values()), np.float32)


@dataclasses.dataclass(frozen=True)
class Detected:
  """A detected object; lengths are fractions of the image's side."""

  shape: str
  color: str
  x: float  # Centre of the bounding box.
  y: float
  radius: float  # Half of the box's width.
  overlap: float  # Intersection over union with the shape's template.


def detect(image: Image, shapes: Collection[str] = SHAPES) -> list[Detected]:
  """Objects of a square image, by decreasing overlap with their template.

  Args:
    shapes: those that have a template.
  """
  pixels = image.astype(np.float32)
  size = len(pixels)
  border = np.concatenate(
    [pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]]
  )
  offset = pixels - np.median(border, axis=0)
  distance = np.sqrt((offset * offset).sum(-1))
  labels, _ = ndimage.label(distance > FOREGROUND)
  found = []
  for label, box in enumerate(ndimage.find_objects(labels), start=1):
    # A margin of one pixel, for the antialiased outline.
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
    inside = labels[box] == label
    if inside.sum() < MIN_AREA * distance.size:
      continue
    color, share = _color_and_share(pixels[box], distance[box], inside)
    shape, (x, y, radius), overlap = _best_template(share, shapes)
    if overlap >= MIN_OVERLAP:
      found.append(
        Detected(
          shape,
          color,
          x=(x + box[1].start) / size,
          y=(y + box[0].start) / size,
          radius=radius / size,
          overlap=overlap,
        )
      )
  return sorted(found, key=lambda thing: -thing.overlap)


def _color_and_share(
  pixels: Float[np.ndarray, 'y x 3'],
  distance: Float[np.ndarray, 'y x'],
  inside: Bool[np.ndarray, 'y x'],
) -> tuple[str, Float[np.ndarray, 'y x']]:
  """Colour of a component, and its coverage of each pixel."""
  # The more distant half, which excludes antialiased and blurred edges.
  far = inside & (distance >= np.median(distance[inside]))
  color = np.median(pixels[far], axis=0)
  nearest = int(((_COLORS - color) ** 2).sum(-1).argmin())
  share = np.clip(distance / np.median(distance[far]), 0, 1)
  near = inside.copy()
  for axis in (0, 1):
    for step in (1, -1):
      near |= np.roll(inside, step, axis)
  return tuple(PALETTE)[nearest], share * near


def _best_template(
  share: Float[np.ndarray, 'y x'], shapes: Collection[str]
) -> tuple[str, tuple[float, float, float], float]:
  """Best shape, its x, y and radius in pixels, and its overlap."""
  area = share.sum()
  x, y = (
    np.arange(share.shape[1]) + 0.5,
    np.arange(share.shape[0])[:, None] + 0.5,
  )
  center_x, center_y = (share * x).sum() / area, (share * y).sum() / area
  best = None
  for shape in shapes:
    full_area, sink = _MOMENTS[shape]
    radius = np.sqrt(area / full_area)
    place = float(center_x), float(center_y - sink * radius), float(radius)
    template = np.clip(
      0.5
      - radius
      * outline_distance(
        shape, (x - place[0]) / radius, (y - place[1]) / radius
      ),
      0,
      1,
    )
    both = np.minimum(share, template).sum()
    overlap = float(both / (area + template.sum() - both))
    if best is None or overlap > best[-1]:
      best = shape, place, overlap
  return best


def _moments(shape: str) -> tuple[float, float]:
  """Area, and height of the centre of mass, of a shape in a box 2 wide."""
  line = (np.arange(400) + 0.5) / 200 - 1
  inside = outline_distance(shape, line, line[:, None]) < 0
  return (
    float(inside.sum() / 200**2),
    float((inside * line[:, None]).sum() / inside.sum()),
  )


_MOMENTS = {shape: _moments(shape) for shape in (*SHAPES, *NEW_SHAPES)}
