import collections

import numpy as np
import pytest

from sana_jax.data.shapes import captions, KINDS, scene, WEIGHTS

pytestmark = pytest.mark.fast


def test_a_scene_is_a_function_of_seed_split_and_index():
  assert scene(3, 'train', 5) == scene(3, 'train', 5)
  others = [scene(4, 'train', 5), scene(3, 'heldout', 5), scene(3, 'train', 6)]
  assert scene(3, 'train', 5) not in others


@pytest.mark.parametrize('split', ['train', 'heldout'])
def test_a_scene_matches_its_caption_exactly(split):
  for index in range(400):
    s = scene(0, split, index)
    group = dict(captions(s.kind, split))[s.requirement]
    assert s.caption in group
    wants = s.requirement.wants
    assert len(s.objects) == sum(want.count for want in wants)
    for want in wants:
      same = [o for o in s.objects if o.shape == want.shape]
      assert len(same) == want.count
      assert len({o.color for o in same}) == 1
      assert want.color in (None, same[0].color)
    if s.requirement.relation:
      first, second = s.objects
      axis = {'left of': 'x', 'above': 'y'}[s.requirement.relation]
      assert getattr(first, axis) < getattr(second, axis) - 0.3


def test_objects_do_not_touch_and_stay_inside():
  for index in range(400):
    objects = scene(1, 'train', index).objects
    for i, a in enumerate(objects):
      assert min(a.x, a.y, 1 - a.x, 1 - a.y) - a.radius >= 0.055
      for b in objects[:i]:
        gap = max(abs(a.x - b.x), abs(a.y - b.y)) - a.radius - b.radius
        assert gap >= 0.039


def test_layouts_are_both_used_and_colours_left_open_vary():
  two = [
    s for s in (scene(2, 'train', i) for i in range(400)) if s.kind == 'two'
  ]
  beside = sum(abs(s.objects[0].x - s.objects[1].x) > 0.3 for s in two)
  assert 0.3 < beside / len(two) < 0.7
  assert len({o.color for s in two for o in s.objects}) == 6


def test_kinds_have_the_frequencies_of_the_weights():
  count = 2000
  kinds = collections.Counter(scene(0, 'train', i).kind for i in range(count))
  for kind in KINDS:
    p = WEIGHTS[kind]
    # Four standard errors.
    assert abs(kinds[kind] / count - p) < 4 * np.sqrt(p * (1 - p) / count)
  only = {scene(0, 'train', i, weights={'two': 2.0}).kind for i in range(9)}
  assert only == {'two'}
