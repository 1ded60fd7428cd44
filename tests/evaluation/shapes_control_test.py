"""Overlap of an image's objects with a scene."""

import dataclasses

import numpy as np
import pytest

from sana_jax.data.shapes import Object, render, Scene, scene
from sana_jax.data.shapes.captions import Requirement, Want
from sana_jax.evaluation import shapes_control

pytestmark = pytest.mark.fast


def of(*objects):
  wants = tuple(Want(thing.shape) for thing in objects)
  return Scene('two', '', objects, Requirement('two', wants), 232)


LEFT = Object('square', 'red', 0.25, 0.5, 0.125)
RIGHT = Object('square', 'green', 0.75, 0.5, 0.125)


def test_a_rendered_scene_overlaps_itself():
  for i in range(20):
    truth = scene(0, 'train', i, layout='free')
    assert shapes_control.overlap(truth, render(truth, 128)) > 0.97


def test_a_shifted_square_has_the_overlap_of_its_area():
  # By half of its width: 1/2 of both, of a union of 3/2.
  moved = dataclasses.replace(LEFT, x=0.375)
  got = shapes_control.overlap(of(LEFT), render(of(moved), 64))
  assert got == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(
  'truth, drawn', [([LEFT, RIGHT], [LEFT]), ([LEFT], [LEFT, RIGHT])]
)
def test_an_unmatched_object_counts_0(truth, drawn):
  got = shapes_control.overlap(of(*truth), render(of(*drawn), 64))
  assert got == pytest.approx(0.5, abs=0.01)


def test_an_empty_image_has_no_overlap():
  empty = np.full((64, 64, 3), 232, np.uint8)
  assert shapes_control.overlap(of(LEFT), empty) == 0


def test_a_suite_has_as_many_scenes_of_each_kind():
  suite = shapes_control.suite(2)
  kinds = [s.kind for s in suite]
  assert {kinds.count(kind) for kind in kinds} == {2} and len(kinds) == 12
  score = shapes_control.score([render(s, 128) for s in suite], suite)
  assert score.accuracy == 1 and score.overlap > 0.97
