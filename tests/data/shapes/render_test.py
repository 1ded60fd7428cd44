import math
import time

import numpy as np
import pytest

from sana_jax.data.shapes import Object, PALETTE, render, Scene, scene, SHAPES
from sana_jax.data.shapes.captions import Requirement, Want

pytestmark = pytest.mark.fast

# Star: corners at R = r / sin 72 deg, inner ones at R cos 72 / cos 36.
_R = 1 / math.sin(math.radians(72))
_INNER = _R * math.cos(math.radians(72)) / math.cos(math.radians(36))
AREAS = {
  'circle': math.pi,
  'square': 4.0,
  'triangle': math.sqrt(3),
  'star': 5 * _R * _INNER * math.sin(math.radians(36)),
}


def one(shape, color='blue', x=0.5, y=0.5, radius=0.23):
  return Scene(
    'single',
    '',
    (Object(shape, color, x, y, radius),),
    Requirement('single', (Want(shape),)),
    230,
  )


def coverage(image, color='blue', background=230):
  """Fraction of each pixel that the object covers."""
  span = np.array(PALETTE[color]) - float(background)
  return ((image - float(background)) @ span) / (span @ span)


@pytest.mark.parametrize('size', [64, 96, 128])
@pytest.mark.parametrize('shape', SHAPES)
def test_the_area_is_that_of_the_shape(shape, size):
  area = coverage(render(one(shape), size)).sum() / size**2
  assert area == pytest.approx(AREAS[shape] * 0.23**2, rel=0.015)


@pytest.mark.parametrize('shape', SHAPES)
def test_x_y_and_radius_match_the_bounding_box(shape):
  size = 400
  inside = coverage(render(one(shape, x=0.45, y=0.55), size)) > 0.1
  columns = np.flatnonzero(inside.any(0))
  rows = np.flatnonzero(inside.any(1))
  edges = (columns[0], columns[-1] + 1)
  assert edges == pytest.approx((0.22 * size, 0.68 * size), abs=1.5)
  assert (rows[0] + rows[-1] + 1) / 2 == pytest.approx(0.55 * size, abs=1.5)


def test_all_sizes_show_the_same_geometry():
  for index in range(10):
    s = scene(0, 'train', index)
    small = render(s, 64).astype(float)
    halved = render(s, 128).reshape(64, 2, 64, 2, 3).astype(float).mean((1, 3))
    # Colours are some 200 from the ground: no pixel is half covered in one
    # and not in the other, not even at the tips of stars.
    assert np.abs(small - halved).mean() < 0.5
    assert np.abs(small - halved).max() < 100


def test_triangles_point_up_and_colours_are_exact():
  image = render(one('triangle', 'orange'), 64)
  inside = coverage(image, 'orange') > 0.5
  rows = np.flatnonzero(inside.any(1))
  assert inside[rows[0]].sum() < inside[rows[-1]].sum()
  assert tuple(image[34, 32]) == PALETTE['orange']
  assert tuple(image[0, 0]) == (230, 230, 230)


def test_a_thousand_images_take_less_than_a_second_of_one_core():
  scenes = [scene(0, 'train', i) for i in range(50)]
  start = time.process_time()
  for s in scenes:
    render(s, 64)
  assert time.process_time() - start < 0.05
