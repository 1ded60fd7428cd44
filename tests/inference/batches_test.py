"""Many pictures: one shape a size, and what each shows does not change."""

import pathlib
import types

import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import batches
from sana_jax.inference.batches import Request
from sana_jax.text.encode import TextError

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'


def test_batches_are_of_one_size_and_in_order():
  sizes = [(8, 8), (16, 8), (8, 8), (8, 8), (16, 8), (8, 8)]
  requests = [
    Request('a', i, height=h, width=w) for i, (h, w) in enumerate(sizes)
  ]
  assert batches.plan(requests, 3) == [[0, 2, 3], [5], [1, 4]]
  assert batches.plan([], 3) == []


@pytest.mark.long
def test_a_picture_is_the_same_alone_and_in_any_batch(pipe):
  requests = [
    Request('a red circle', 3, 0, '', 16, 16),
    Request('two stars', 5, 1, 'blue', 16, 24),
    Request('a red circle', 3, 1, 'blue', 16, 16),
    Request('a dog', 4, 0, 'a cat', 16, 16),
    Request('two stars', 5, 0, '', 16, 16),
  ]
  seen = {}
  for indices, images in batches.generate(
    pipe, requests, 2, steps=2, guidance_scale=4.5, output_type='float'
  ):
    assert len(images) == len(indices)
    seen |= dict(zip(indices, np.asarray(images)))
  assert sorted(seen) == list(range(5))
  for i, r in enumerate(requests):
    alone = pipe.draw(
      r.prompt,
      seed=r.seed,
      numbers=[r.number],
      height=r.height,
      width=r.width,
      negative_prompt=r.negative_prompt,
      steps=2,
      output_type='float',
    )[0]
    np.testing.assert_allclose(seen[i], alone, atol=2e-5)


class Fake:
  """Draws zeros; some sizes are too big, and some texts cannot be encoded."""

  def __init__(self, too_big=(), unreadable=()):
    self.drawn, self.too_big, self.unreadable = [], too_big, unreadable

  def draw(self, prompts, height, negative_prompt, **_):
    if bad := [p for p in (*prompts, *negative_prompt) if p in self.unreadable]:
      raise TextError('no text', bad)
    if height in self.too_big:
      raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    self.drawn.append(prompts)
    return np.zeros((len(prompts), 2, 2, 3), np.uint8)


def test_text_that_cannot_be_encoded_is_reported_and_left_out():
  pipe, bad = Fake(unreadable=('b', 'n')), []
  requests = [Request(p, 0) for p in 'abcdb'] + [Request('e', 0, 0, 'n')]
  done = []
  for indices, _ in batches.generate(
    pipe, requests, 3, on_bad=lambda *found: bad.append(found)
  ):
    done += indices
  assert done == [0, 2, 3]
  assert bad == [([1], 'no text'), ([4, 5], 'no text')]
  assert pipe.drawn == [['a', 'c', 'c'], ['d', 'd', 'd']]
  with pytest.raises(TextError):
    list(batches.generate(pipe, requests, 3))


def test_a_size_without_memory_waits_until_all_others_are_drawn():
  pipe, done = Fake(too_big=(64,)), []
  requests = [
    Request(str(i), 0, height=h) for i, h in enumerate([64, 8, 64, 64, 8, 16])
  ]
  with pytest.raises(RuntimeError, match='RESOURCE_EXHAUSTED'):
    for indices, _ in batches.generate(pipe, requests, 2):
      done += indices
  assert done == [1, 4, 5]


def test_a_restart_draws_the_same_batches():
  requests = [Request(str(i), 0) for i in range(7)]
  whole, rest = Fake(), Fake()
  list(batches.generate(whole, requests, 3))
  done = [i for i, _ in batches.generate(rest, requests, 3, wanted={4, 6})]
  assert done == [[3, 4, 5], [6]]
  assert rest.drawn == whole.drawn[1:]


def test_half_a_surrogate_pair_raises_a_user_error(pipe):
  for prompts, negative in (
    (['\ud83d cat'], ''),
    ('a', '\udc00'),
    (['a', 'b'], ['', '\udfff']),
  ):
    with pytest.raises(UserError) as error:
      pipe.draw(prompts, negative_prompt=negative, steps=1)
    assert error.value.key == ('negative_prompt' if negative else 'prompt')
    assert any('\ud800' <= c <= '\udfff' for c in error.value.value)


def test_control_images_of_lines_are_a_list_for_each_net():
  seen = []
  fake = types.SimpleNamespace(draw=lambda prompts, **how: seen.append(how))
  requests = [
    Request('a', 0, control_image=(f'{k}.png', f'{k}n.png')) for k in 'xy'
  ]
  batches._draw(fake, requests, 2, {'steps': 1})
  batches._draw(fake, [requests[0]._replace(control_image=('x',))], 2, {})
  assert seen[0]['control_image'] == [['x.png', 'y.png'], ['xn.png', 'yn.png']]
  assert seen[1]['control_image'] == ['x', 'x']


def test_requests_with_images_of_their_own_share_batches():
  image = lambda k: {'file': f'{k}.png', 'sha256': k}
  row = lambda k, **how: Request(
    'a', 0, height=8, width=8, image=image(k), **how
  )
  requests = [
    row('x'),
    row('y'),
    row('x', mask=image('m')),
    row('y', mask=image('n')),
    row('y', mask=image('n'), padding_mask_crop=4),
    row('x', mask=image('m'), padding_mask_crop=4),
    row('x', strength=0.5),
    Request('a', 0, height=8, width=8),
  ]
  want = [[0, 1], [2, 3], [4], [5], [6], [7]]
  assert batches.plan(requests, 8) == want
  seen = []
  fake = types.SimpleNamespace(draw=lambda prompts, **how: seen.append(how))
  for indices in want:
    batches._draw(fake, [requests[i] for i in indices], len(indices), {})
  assert seen[0]['image'] == [image('x'), image('y')]
  assert seen[1]['mask'] == [image('m'), image('n')]
  assert seen[2]['mask'] == image('n') and 'image' not in seen[5]
