"""The demo's limits, sentences and pictures, without a page."""

import io
import math
import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from sana_jax import Pipeline
from sana_jax.errors import UserError
from sana_jax.inference import demo, texts
from sana_jax.inference.demo import DrawRequest, Limits
from sana_jax.inference.request_queue import Stopped
from sana_jax.version import __version__

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
LIMITS = Limits(size_px=64, steps=30, images=4)
GOOD = DrawRequest('a red circle', '', 16, 16, 2, 4.5, 7, 2, 'dpm++2m')


def request_of(**changes):
  return GOOD._replace(**changes)


def test_a_good_request_is_left_as_it_is(pipe):
  assert demo.check(pipe, GOOD, LIMITS) == GOOD


def test_whole_numbers_may_come_as_floats(pipe):
  got = demo.check(
    pipe, request_of(steps=2.0, seed=7.0, guidance_scale=3), LIMITS
  )
  assert [type(x) for x in (got.steps, got.seed, got.guidance_scale)] == [
    int,
    int,
    float,
  ]


@pytest.mark.parametrize(
  'changes, allowed',
  [
    (dict(prompt=''), None),
    (dict(prompt=' \n'), None),
    (dict(prompt=None), 'text'),
    (dict(prompt=['x']), 'text'),
    (dict(prompt='\ud800'), 'UTF-8 text'),
    (dict(prompt='x' * 20_001), '20000'),
    (dict(negative_prompt=3), 'text'),
    (dict(width=100_000), '4 to 64'),
    (dict(height=0), '4 to 64'),
    (dict(height=None), '4 to 64'),
    (dict(width=17), 'multiple of 4, such as 16'),
    (dict(steps=31), '1 to 30'),
    (dict(steps=2.5), '1 to 30'),
    (dict(steps=True), '1 to 30'),
    (dict(num_images=5), '1 to 4'),
    (dict(seed=-1), '0 to 2147483647'),
    (dict(seed=math.nan), '0 to 2147483647'),
    (dict(seed={'path': '/etc/hostname'}), '0 to 2147483647'),
    (dict(seed=10**5000), '0 to 2147483647'),
    (dict(sampler=['ddim']), 'dpm++2m-heun'),
    (dict(sampler='ddim'), 'dpm++2m-heun'),
    (dict(guidance_scale=float('inf')), '0 to 100'),
    (dict(prompt='', steps=0), None),
  ],
)
def test_a_bad_request_raises_before_any_work(pipe, changes, allowed):
  with pytest.raises(UserError) as raised:
    demo.draw(pipe, request_of(**changes), LIMITS, 'tiny')
  error = raised.value
  assert (error.key, error.value) == next(iter(changes.items()))
  assert error.allowed is allowed is None or allowed in error.allowed


def test_all_problems_of_a_request_are_named(pipe):
  with pytest.raises(UserError) as raised:
    demo.draw(pipe, request_of(prompt='', steps=0, seed=-1), LIMITS, 'tiny')
  assert all(key in str(raised.value) for key in ('prompt', 'steps', 'seed'))


@pytest.mark.parametrize('value', ['\x1b[2J\n', 'x' * 10**6, '\u202e'])
def test_text_of_a_request_is_escaped_and_cut(pipe, value):
  with pytest.raises(UserError) as raised:
    demo.check(pipe, request_of(seed=value), LIMITS)
  assert str(raised.value).isprintable()
  assert len(str(raised.value)) < 200


@pytest.mark.long
def test_a_stopped_request_ends_after_its_step(pipe):
  stop, done = threading.Event(), []

  def on_step(step):
    done.append(step)
    stop.set()

  with pytest.raises(Stopped):
    demo.drawn(pipe, request_of(steps=30), LIMITS, 'tiny', stop, on_step)
  assert done == [1]


def test_the_sizes_offered_have_the_usual_area_and_the_ratio(pipe):
  sizes = demo.sizes(pipe, LIMITS)
  assert sizes['1:1'] == (32, 32)
  # 32 sqrt(16/9) = 42.7 by 32 sqrt(9/16) = 24, to multiples of 4.
  assert sizes['16:9'] == (44, 24)
  assert sizes['9:16'] == (24, 44)
  assert '2:1' not in sizes  # 45.3 by 22.6: the same.
  assert len(set(sizes.values())) == len(sizes)
  assert max(max(s) for s in demo.sizes(pipe, Limits(40)).values()) <= 40


@pytest.mark.long
def test_the_pictures_are_those_of_the_pipeline(pipe):
  done = []
  files = demo.draw(pipe, GOOD, LIMITS, 'tiny', on_step=done.append)
  want = pipe.draw(
    'a red circle', height=16, width=16, steps=2, seed=7, num_images=2
  )
  assert done == [1, 2]
  assert [f.name for f in files] == [
    'a-red-circle-7-0.png',
    'a-red-circle-7-1.png',
  ]
  for file, pixels in zip(files, want):
    with Image.open(io.BytesIO(file.content)) as image:
      np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.long
def test_each_picture_has_its_settings(pipe):
  prompt = '猫 🙂 ä'
  *_, last = demo.draw(
    pipe, request_of(prompt=prompt, negative_prompt='Nebel'), LIMITS, 'tiny'
  )
  with Image.open(io.BytesIO(last.content)) as image:
    assert image.text == {
      'prompt': prompt,
      'negative_prompt': 'Nebel',
      'seed': '7',
      'number': '1',
      'height': '16',
      'width': '16',
      'steps': '2',
      'guidance_scale': '4.5',
      'sampler': 'dpm++2m',
      'model': 'tiny',
      'version': f'sana_jax {__version__}',
      'parameters': f'{prompt}\nNegative prompt: Nebel\n'
      'Steps: 2, Sampler: dpm++2m, CFG scale: 4.5, Seed: 7, Size: 16x16, '
      'Model: tiny',
    }


@pytest.mark.parametrize(
  'prompt, cut',
  [('a red circle', False), ('red ' * 2500, True), ('🙂' * 300, True)],
)
def test_a_truncated_prompt_is_reported(pipe, prompt, cut):
  assert bool(texts.notes(pipe, [prompt, ''])) == cut


def test_running_out_of_memory_raises_a_user_error(pipe, monkeypatch):
  def fail(*_, **__):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  monkeypatch.setattr(Pipeline, 'draw', fail)
  with pytest.raises(UserError):
    demo.draw(pipe, GOOD, LIMITS, 'tiny')


@pytest.mark.long
def test_a_picture_with_nan_is_not_sent(pipe, monkeypatch):
  inner = Pipeline.draw

  def broken(*args, **kwargs):
    images = inner(*args, **kwargs)
    return images.at[1, 3, 4].set(jnp.nan)  # Of the second picture.

  monkeypatch.setattr(Pipeline, 'draw', broken)
  with pytest.raises(UserError) as error:
    demo.draw(pipe, GOOD, LIMITS, 'tiny')
  assert error.value.key == '--dtype'
