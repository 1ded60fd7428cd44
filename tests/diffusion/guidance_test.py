"""Guidance against two separate model calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion import guidance
from sana_jax.diffusion.paths import Prediction

pytestmark = pytest.mark.fast

X = jnp.array([[1.0, -2.0], [0.5, 3.0]])
TEXT = {'text': jnp.array([[1.0, 2.0], [3.0, 4.0]]), 'mask': jnp.ones((2, 1))}
NULL = {'text': jnp.zeros((2, 2)), 'mask': jnp.zeros((2, 1))}


class Model:
  """Function of all inputs that records its batches."""

  def __init__(self):
    self.batches = []

  def __call__(self, x, t, conditioning, timestep):
    self.batches.append(len(x))
    assert t.shape == timestep.shape == (len(x),)
    return Prediction(x, t, self.velocity(x, timestep, conditioning))

  def velocity(self, x, timestep, conditioning):
    scale = 1 + timestep[:, None] / 1000
    return jnp.sin(x * scale) + conditioning['text'] - conditioning['mask']


def velocity_of(model, conditional, unconditional, options, timestep):
  """Velocity at X, as a sampler requests it."""
  predict = guidance.guide(model, conditional, unconditional, options)
  prediction = predict(X, jnp.float32(timestep / 1000), jnp.float32(timestep))
  np.testing.assert_array_equal(prediction.x, X)
  return prediction.velocity()


def test_guidance_extrapolates_from_one_doubled_batch():
  model = Model()
  v = velocity_of(model, TEXT, NULL, 4.5, 300.0)
  t = jnp.full(2, 300.0)
  u, c = model.velocity(X, t, NULL), model.velocity(X, t, TEXT)
  np.testing.assert_allclose(v, u + 4.5 * (c - u), rtol=1e-6)
  assert model.batches == [4]


@pytest.mark.parametrize('scale', [1.0, 0.0])
def test_without_guidance_the_model_runs_on_the_conditional_only(scale):
  model = Model()
  v = velocity_of(model, TEXT, None, scale, 300.0)
  np.testing.assert_array_equal(v, model.velocity(X, jnp.full(2, 300.0), TEXT))
  assert model.batches == [2]


def test_the_unconditional_half_comes_first():
  half = lambda x, t, *_, **__: Prediction(
    x, t, jnp.concatenate([x[:2] * 0, x[2:] * 0 + 1])
  )
  v = velocity_of(half, TEXT, NULL, 3.0, 0.0)
  np.testing.assert_array_equal(v, np.full((2, 2), 3.0))


@pytest.mark.parametrize('t, guided', [(100, False), (300, True), (900, False)])
def test_outside_its_interval_there_is_no_guidance(t, guided):
  options = guidance.Guidance(4.5, interval=(0.2, 0.8))
  v = velocity_of(Model(), TEXT, NULL, options, t)
  times = jnp.full(2, float(t))
  u, c = (Model().velocity(X, times, text) for text in (NULL, TEXT))
  np.testing.assert_allclose(v, u + 4.5 * (c - u) if guided else c, rtol=1e-5)


class Perturbed(Model):
  """Model plus 1 where it is perturbed."""

  def __call__(self, x, t, conditioning, timestep, perturbed):
    prediction = super().__call__(x, t, conditioning, timestep)
    return prediction._replace(v=prediction.v + perturbed[:, None])


@pytest.mark.parametrize('scale, batch', [(4.5, 6), (1.0, 4)])
def test_guidance_moves_away_from_the_perturbed_prediction(scale, batch):
  model = Perturbed()
  options = guidance.Guidance(scale, pag_scale=3.0)
  v = velocity_of(model, TEXT, NULL, options, 300.0)
  t = jnp.full(2, 300.0)
  u, c = model.velocity(X, t, NULL), model.velocity(X, t, TEXT)
  plain = u + scale * (c - u) if scale > 1 else c
  np.testing.assert_allclose(v, plain + 3 * (c - (c + 1)), rtol=1e-5)
  assert model.batches == [batch]


@pytest.mark.parametrize('t, scale', [(1000, 3.0), (600, 1.0), (100, 0.0)])
def test_adaptive_perturbation_fades_out_with_the_time(t, scale):
  options = guidance.Guidance(1.0, pag_scale=3.0, pag_adaptive=0.005)
  v = velocity_of(Perturbed(), TEXT, NULL, options, t)
  c = Model().velocity(X, jnp.full(2, float(t)), TEXT)
  np.testing.assert_allclose(v, c - scale, atol=1e-5)


def project(eta, norm=0.0, t=0.4):
  rng = np.random.default_rng()
  u, c, x = (
    jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32) for _ in range(3)
  )
  v = guidance.project(
    u, c, x, jnp.float32(t), guidance.Guidance(4.0, apg_eta=eta, apg_norm=norm)
  )
  clean = np.asarray(x - t * c)
  update = (
    np.asarray(x - t * v) - clean
  ) / 3  # Difference of clean images, for s - 1.
  return u, c, v, clean, update


def test_projected_guidance_with_all_of_both_parts_is_plain_guidance():
  u, c, v, _, _ = project(1.0)
  np.testing.assert_allclose(v, guidance.combine(u, c, 4.0), atol=1e-4)


def test_projected_guidance_is_across_the_prediction():
  _, _, _, clean, update = project(0.0)
  across = np.sum(clean * update, axis=(1, 2))
  np.testing.assert_allclose(across, 0, atol=1e-4)


def test_an_update_is_clipped_to_the_norm():
  _, _, _, _, update = project(1.0, norm=0.1)
  np.testing.assert_allclose(
    np.sqrt(np.sum(update**2, axis=(1, 2))), 0.1, rtol=1e-3
  )


def test_the_difference_is_taken_in_float32():
  # bfloat16 would round 1 + 4.5 * 2^-7 to 1.03125.
  u, c = jnp.bfloat16(1.0), jnp.bfloat16(1 + 2**-7)
  v = guidance.combine(u, c, 4.5)
  assert v.dtype == jnp.float32
  np.testing.assert_allclose(v, 1 + 4.5 * 2**-7, rtol=1e-6)


def test_guidance_works_under_jit():
  predict = guidance.guide(Model(), TEXT, NULL, 2.0)
  run = lambda x, t: predict(x, t / 1000, t).velocity()
  np.testing.assert_allclose(
    jax.jit(run)(X, jnp.float32(7.0)), run(X, jnp.float32(7.0)), rtol=1e-6
  )
