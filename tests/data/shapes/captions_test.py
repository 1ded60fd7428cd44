import pytest

from sana_jax.data.shapes import captions, KINDS, phrasings, requirements, words
from sana_jax.data.shapes.captions import Requirement, Want

pytestmark = pytest.mark.fast


def texts(kind, split):
  return {text for _, group in captions(kind, split) for text in group}


def test_no_heldout_caption_occurs_in_train():
  train = set().union(*(texts(kind, 'train') for kind in KINDS))
  heldout = set().union(*(texts(kind, 'heldout') for kind in KINDS))
  assert not train & heldout
  every = {t for k in KINDS for r in requirements(k) for t in phrasings(r)}
  assert train | heldout == every


def test_no_heldout_meaning_occurs_in_train_except_single():
  for kind in KINDS[1:]:
    train, heldout = (
      {r for r, _ in captions(kind, split)} for split in ('train', 'heldout')
    )
    assert not train & heldout
    total = len(requirements(kind))
    assert len(heldout) == max(2, -(-total // 8))
    assert len(train) + len(heldout) == total


def test_every_shape_has_a_heldout_single_caption():
  heldout = captions('single', 'heldout')
  assert [r.wants[0].shape for r, _ in heldout] == [
    'circle',
    'square',
    'triangle',
    'star',
  ]
  assert all(len(group) == 1 for _, group in heldout)


def test_numbers_of_meanings_are_those_of_combinatorics():
  # 4 shapes, 6 colours: C(4,2); 4*7*3; 4*6; 4*3*36*2; 6*30.
  assert [len(requirements(kind)) for kind in KINDS] == [4, 6, 84, 24, 864, 180]


def test_no_caption_has_two_meanings():
  seen = {}
  for kind in KINDS:
    for requirement in requirements(kind):
      for text in phrasings(requirement):
        assert seen.setdefault(text, requirement) == requirement


def test_a_position_is_expressed_from_both_sides():
  left = Requirement(
    'position', (Want('circle', 'red'), Want('square', 'blue')), 'left of'
  )
  assert {
    'a red circle left of a blue square',
    'a blue square is right of a red circle',
  } <= set(phrasings(left))


def test_captions_are_short_english():
  every = [t for k in KINDS for r in requirements(k) for t in phrasings(r)]
  assert max(len(text.split()) for text in every) <= 9
  assert not any('a orange' in text for text in every)
  assert len(words()) <= 32
