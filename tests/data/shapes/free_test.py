"""Scenes with free positions, and their control images."""

import json

import numpy as np
import pytest

from sana_jax.data.shapes import controls, render, scene, scenes
from sana_jax.evaluation import shapes_suite
from sana_jax.evaluation.shapes_detector import detect

pytestmark = pytest.mark.fast

SCENES = [scene(3, 'train', i, layout='free') for i in range(200)]


def test_objects_are_inside_and_their_boxes_do_not_touch():
  for truth in SCENES:
    for i, a in enumerate(truth.objects):
      assert a.radius < min(a.x, a.y, 1 - a.x, 1 - a.y)
      for b in truth.objects[:i]:
        apart = max(abs(a.x - b.x), abs(a.y - b.y))
        assert apart > a.radius + b.radius


@pytest.mark.long
def test_a_scene_shows_its_caption():
  for truth in SCENES:
    found = detect(render(truth, 128))
    assert shapes_suite.follows_strictly(truth.requirement, found)


def test_positions_are_free():
  single = [s.objects[0] for s in SCENES if len(s.objects) == 1]
  places = np.array([(thing.x, thing.y) for thing in single])
  # Uniform from .21 to .79 at the least: on the grid they are within .06.
  assert (places.std(axis=0) > 0.1).all()


def test_the_layout_does_not_change_captions_or_the_grid():
  free = scene(3, 'train', 5, layout='free')
  grid = scene(3, 'train', 5)
  assert (free.caption, free.requirement) == (grid.caption, grid.requirement)
  assert free.objects != grid.objects


def test_a_scene_survives_its_json():
  for truth in SCENES[:20]:
    text = json.dumps(truth, default=vars)
    assert scenes.from_json(json.loads(text)) == truth


def test_a_mask_has_the_same_objects_in_one_colour():
  for truth in SCENES[:20]:
    found = detect(controls.masks(truth, 128))
    assert {thing.color for thing in found} == {controls.COLOR}
    assert sorted(x.shape for x in found) == sorted(
      x.shape for x in truth.objects
    )


def test_edges_are_a_ring_inside_of_the_mask():
  (truth,) = (s for s in SCENES[:50] if s.caption == SCENES[0].caption)
  size = 256
  mark = lambda x: np.abs(x - np.float32(controls.BACKGROUND)).sum(-1) > 100
  mask, edge = (
    mark(f(truth, size).astype(np.float32))
    for f in (controls.masks, controls.edges)
  )
  assert not (edge & ~mask).any()
  assert 0.1 < edge.sum() / mask.sum() < 0.9
