"""Many pictures: one shape a size, and what each shows does not change."""

import pathlib

import numpy as np
import pytest

from sana_jax.inference import batches
from sana_jax.inference.batches import Request
from sana_jax.inference.pipeline import Pipeline

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'


def test_batches_are_of_one_size_and_in_order():
  sizes = [(8, 8), (16, 8), (8, 8), (8, 8), (16, 8), (8, 8)]
  requests = [Request('a', i, height=h, width=w)
              for i, (h, w) in enumerate(sizes)]
  assert batches.plan(requests, 3) == [[0, 2, 3], [5], [1, 4]]
  assert batches.plan([], 3) == []


@pytest.fixture(scope='module')
def pipe():
  return Pipeline.from_pretrained(GOLDEN, 'float32')


def test_a_picture_is_the_same_alone_and_in_any_batch(pipe):
  requests = [
    Request('a red circle', 3, 0, '', 32, 32),
    Request('two stars', 5, 1, 'blue', 32, 48),
    Request('a red circle', 3, 1, 'blue', 32, 32),
    Request('a dog', 4, 0, 'a cat', 32, 32),
    Request('two stars', 5, 0, '', 32, 32)]
  seen = {}
  for indices, images in batches.generate(
      pipe, requests, 2, steps=2, guidance_scale=4.5, output_type='float'):
    assert len(images) == len(indices)
    seen |= dict(zip(indices, np.asarray(images)))
  assert sorted(seen) == list(range(5))
  for i, r in enumerate(requests):
    alone = pipe(r.prompt, seed=r.seed, numbers=[r.number], height=r.height,
                 width=r.width, negative_prompt=r.negative_prompt, steps=2,
                 output_type='float')[0]
    np.testing.assert_allclose(seen[i], alone, atol=2e-5)
