"""One step at a time gives the latents of all steps at once."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest

from sana_jax import Pipeline
from sana_jax.diffusion import samplers
from sana_jax.inference import denoising
from sana_jax.sharding.mesh import make_mesh

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
PROMPT = 'a red circle'
SMALL = dict(height=16, width=16, num_images=2)


@pytest.fixture(scope='module', params=['one device', 'mesh'])
def pipe(request):
  mesh = (
    None
    if request.param == 'one device'
    else make_mesh({'data': -1}, jax.local_devices()[:2])
  )
  return Pipeline.from_pretrained(FOLDER, 'float32', mesh)


@pytest.mark.parametrize('sampler', ['euler', 'dpm++2m', 'dpm++3m'])
def test_step_by_step_gives_the_same_pictures(pipe, sampler):
  done = []
  settings = dict(sampler=sampler, steps=4, **SMALL)
  got = pipe.draw(PROMPT, on_step=done.append, output_type='float', **settings)
  want = pipe.draw(PROMPT, output_type='float', **settings)
  assert done == [1, 2, 3, 4]
  # The programs differ, and so may the last bits.
  np.testing.assert_allclose(got, want, atol=1e-6)


class Renoised(NamedTuple):
  x: jax.Array


class Renoise:
  """Sprint's rule: the predicted data, with fresh noise at the next time."""

  def init(self, x, rng):
    return Renoised(x)

  def step(self, carry, prediction, at, rng):
    draw = lambda key: jax.random.normal(key, carry.x.shape[1:])
    return Renoised(
      prediction.path.interpolate(prediction.data(), jax.vmap(draw)(rng), at.s)
    )


def test_a_pictures_random_numbers_are_of_its_seed_and_number(
  pipe, monkeypatch
):
  monkeypatch.setitem(samplers._SAMPLERS, 'renoise', Renoise())
  draw = lambda *args, **how: pipe.draw(
    *args, **SMALL | dict(sampler='renoise', steps=3, output_type='float') | how
  )
  want = draw(PROMPT, seed=5)
  assert np.abs(want[0] - want[1]).max() > 1e-2
  assert np.abs(want - draw(PROMPT, seed=6)).max() > 1e-2
  np.testing.assert_allclose(
    draw(PROMPT, seed=5, on_step=lambda done: None), want, atol=1e-5
  )
  np.testing.assert_allclose(
    draw(PROMPT, seed=5, num_images=1, numbers=[1]), want[1:], atol=1e-5
  )
  both = draw(['a cat', PROMPT], seed=[6, 5])
  np.testing.assert_allclose(both[2:], want, atol=1e-5)
  # The same noise to start from, and other numbers in the steps.
  noise = np.zeros((2, 4, 4, pipe.transformer.module.in_channels), np.float32)
  again = draw(PROMPT, latents=noise, seed=5)
  assert np.abs(again - draw(PROMPT, latents=noise, seed=6)).max() > 1e-2


def test_one_program_serves_any_number_of_steps(pipe):
  counts = []
  for steps in (2, 3, 5):
    pipe.draw(PROMPT, on_step=lambda done: None, steps=steps, **SMALL)
    counts.append(denoising._advance._cache_size())
  assert len(set(counts)) == 1


def test_an_exception_of_on_step_ends_the_run(pipe):
  steps = []

  def stop(done):
    steps.append(done)
    if done == 2:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    pipe.draw(PROMPT, on_step=stop, steps=5, **SMALL)
  assert steps == [1, 2]
