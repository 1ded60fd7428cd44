"""One step at a time gives the latents of all steps at once."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest

from sana_jax import Pipeline
from sana_jax.diffusion import samplers
from sana_jax.diffusion.paths import Flow, TrigFlow
from sana_jax.inference import denoising
from sana_jax.sharding.mesh import make_mesh

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
PROMPT = 'a red circle'
SMALL = dict(height=16, width=16, num_images=2)


def check_steps(pipe, whole, atol=1e-6, **settings):
  """Checks pictures made step by step against those made in one program."""
  done = []
  how = dict(steps=3, output_type='float') | SMALL | settings
  got = pipe.draw(PROMPT, on_step=done.append, **how)
  assert done == [1, 2, 3]
  # The programs differ, and so may the last bits.
  np.testing.assert_allclose(got, whole.draw(PROMPT, **how), atol=atol)


@pytest.mark.long
@pytest.mark.parametrize('sampler', ['euler', 'dpm++2m', 'dpm++3m'])
def test_step_by_step_gives_the_same_pictures(pipe, sampler):
  check_steps(pipe, pipe, sampler=sampler)


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


@pytest.mark.long
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
    draw(PROMPT, seed=5, numbers=[1, 0]), want[::-1], atol=1e-5
  )
  both = draw(['a cat', PROMPT], seed=[6, 5], num_images=1, numbers=[0, 1])
  np.testing.assert_allclose(both[1], want[1], atol=1e-5)
  # The same noise to start from, and other numbers in the steps.
  noise = np.zeros((2, 4, 4, pipe.transformer.module.in_channels), np.float32)
  again = draw(PROMPT, latents=noise, seed=5)
  assert np.abs(again - draw(PROMPT, latents=noise, seed=6)).max() > 1e-2


@pytest.mark.long
def test_a_mesh_steps_to_the_pictures_of_one_device(pipe, monkeypatch):
  monkeypatch.setitem(samplers._SAMPLERS, 'renoise', Renoise())
  mesh = make_mesh({'data': -1}, jax.local_devices()[:2])
  split = Pipeline.from_pretrained(FOLDER, 'float32', mesh)
  sizes = []
  for sampler, atol in (('renoise', 1e-5), ('dpm++3m', 1e-6)):
    check_steps(split, pipe, atol, sampler=sampler, seed=5)
    sizes.append(denoising._advance._cache_size())
  assert sizes[1] == sizes[0] + 1  # One program for all steps.


def test_one_program_serves_any_number_of_steps(pipe):
  counts = []
  for steps in (3, 2, 5):
    pipe.draw(PROMPT, on_step=lambda done: None, steps=steps, **SMALL)
    counts.append(denoising._advance._cache_size())
  assert len(set(counts)) == 1


@pytest.mark.parametrize('sampler', ['euler', 'dpm++2m', 'dpm++3m'])
def test_estimates_change_no_bit_and_lead_to_the_result(pipe, sampler):
  how = dict(steps=4, sampler=sampler, output_type='latent') | SMALL
  found, programs = {}, []

  def on_estimate(done, estimate):
    found[done] = np.asarray(estimate())
    programs.append(denoising._estimate._cache_size())

  plain = pipe.draw(PROMPT, on_step=lambda done: None, **how)
  steps = denoising._advance._cache_size()
  got = pipe.draw(PROMPT, on_estimate=on_estimate, **how)
  np.testing.assert_array_equal(got, plain)
  assert denoising._advance._cache_size() == steps
  assert list(found) == [1, 2, 3, 4] and len(set(programs)) == 1
  # The last step ends at the estimate; earlier ones are ever further from it.
  far = [np.abs(found[done] - got).mean() for done in found]
  np.testing.assert_allclose(found[4], got, atol=1e-5)
  assert far == sorted(far, reverse=True) and far[0] > 1e-3


def test_an_estimate_of_a_first_order_step_is_the_predicted_data():
  rng = np.random.default_rng()
  data, noise = rng.normal(size=(2, 2, 4, 4, 3)).astype(np.float32)
  t, s = (np.array([x], np.float32) for x in (0.7, 0.4))
  at = samplers.base.Interval(t, s, None, None)
  for path in (Flow(), TrigFlow()):
    before = path.interpolate(data, noise, t[0])
    after = before + (s - t)[0] * path.target(data, noise, t[0])
    got = denoising._estimate(before, after, at, path)
    np.testing.assert_allclose(got, data, atol=1e-5)


def test_an_exception_of_on_step_ends_the_run(pipe):
  steps = []

  def stop(done):
    steps.append(done)
    if done == 2:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    pipe.draw(PROMPT, on_step=stop, steps=5, **SMALL)
  assert steps == [1, 2]
