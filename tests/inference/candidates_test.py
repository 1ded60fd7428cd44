"""Candidates are those pictures that would be made without a scorer."""

import pathlib

import numpy as np
import pytest

from sana_jax.inference import candidates
from sana_jax.inference.batches import Request

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
REQUESTS = [
  Request('a red circle', 3, height=16, width=16),
  Request('two stars', 5, height=16, width=24),
  Request('a dog', 4, negative_prompt='cat', height=16, width=16),
]


def redness(prompts, images):
  return images[..., 0].mean(axis=(1, 2))


def redder(prompts, first, second):
  return redness(prompts, first) >= redness(prompts, second)


@pytest.fixture(scope='module')
def pictures(pipe):
  """Five pictures of each request."""
  return [five(pipe, request) for request in REQUESTS]


def five(pipe, request):
  """Pictures 0 to 4, four at a time as in `generate`."""
  first, second = (
    pipe.draw(
      request.prompt,
      seed=request.seed,
      num_images=4,
      numbers=numbers,
      steps=2,
      height=request.height,
      width=request.width,
      negative_prompt=request.negative_prompt,
    )
    for numbers in ([0, 1, 2, 3], [1, 2, 3, 4])
  )
  return np.concatenate([first, second[3:]])


@pytest.mark.long
@pytest.mark.parametrize('chooser', [redness, redder])
def test_the_kept_are_the_best_of_the_pictures_of_those_numbers(
  pipe, pictures, chooser
):
  keep = [2, 1, 1]
  found = dict(
    candidates.generate(pipe, REQUESTS, 5, keep, chooser, 4, steps=2)
  )
  assert sorted(found) == [0, 1, 2]
  for i, images in enumerate(pictures):
    score = redness([], images)
    if chooser is redness:
      want = np.argsort(-score, kind='stable')[: keep[i]]
    else:  # The first two numbers against the last three.
      halves = [(0, 2), (2, 5)] if keep[i] == 2 else [(0, 5)]
      want = [a + score[a:b].argmax() for a, b in halves]
    assert [c.number for c in found[i]] == list(want)
    for candidate in found[i]:
      np.testing.assert_allclose(
        candidate.image.astype(int), images[candidate.number], atol=1
      )
      assert candidate.image.base is None  # Holds no batch.


def test_a_prompt_is_handed_on_before_the_next_ones_are_made():
  drawn = []

  class Pipe:
    def draw(self, prompts, **_):
      drawn.append(len(prompts))
      return np.zeros((len(prompts), 2, 2, 3), np.uint8)

  requests = [Request(str(i), 0) for i in range(10)]
  some = candidates.generate(Pipe(), requests, 4, [1] * 10, redness, 4)
  i, kept = next(some)
  assert (i, kept[0].number, kept[0].score) == (0, 0, 0)
  assert drawn == [4, 4]  # The next batch is on its way, no more.
  assert [i for i, _ in some] == list(range(1, 10))
