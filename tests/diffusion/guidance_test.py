"""Guidance against two separate model calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion import guidance

X = jnp.array([[1., -2.], [0.5, 3.]])
TEXT = {'text': jnp.array([[1., 2.], [3., 4.]]), 'mask': jnp.ones((2, 1))}
NULL = {'text': jnp.zeros((2, 2)), 'mask': jnp.zeros((2, 1))}


class Model:
  """Some function of everything, which notes the batches that it sees."""

  def __init__(self):
    self.batches = []

  def __call__(self, x, timestep, conditioning):
    self.batches.append(len(x))
    assert timestep.shape == (len(x),)
    scale = 1 + timestep[:, None] / 1000
    return jnp.sin(x * scale) + conditioning['text'] - conditioning['mask']


def test_guidance_extrapolates_from_one_doubled_batch():
  model, separate = Model(), Model()
  v = guidance.guide(model, TEXT, NULL, 4.5)(X, jnp.float32(300.))
  t = jnp.full(2, 300.)
  u, c = separate(X, t, NULL), separate(X, t, TEXT)
  np.testing.assert_allclose(v, u + 4.5 * (c - u), rtol=1e-6)
  assert model.batches == [4]


@pytest.mark.parametrize('scale', [1., 0.])
def test_without_guidance_the_model_runs_on_the_conditional_only(scale):
  model = Model()
  v = guidance.guide(model, TEXT, None, scale)(X, jnp.float32(300.))
  np.testing.assert_array_equal(v, Model()(X, jnp.full(2, 300.), TEXT))
  assert model.batches == [2]


def test_the_unconditional_half_comes_first():
  half = lambda x, timestep: jnp.concatenate([x[:2] * 0, x[2:] * 0 + 1])
  v = guidance.classifier_free(half, 3.)(X, jnp.float32(0.))
  np.testing.assert_array_equal(v, np.full((2, 2), 3.))


def test_the_difference_is_taken_in_float32():
  # bfloat16 would round 1 + 4.5 * 2^-7 to 1.03125.
  u, c = jnp.bfloat16(1.), jnp.bfloat16(1 + 2**-7)
  v = guidance.combine(u, c, 4.5)
  assert v.dtype == jnp.float32
  np.testing.assert_allclose(v, 1 + 4.5 * 2**-7, rtol=1e-6)


def test_guidance_works_under_jit():
  velocity = guidance.guide(Model(), TEXT, NULL, 2.)
  np.testing.assert_allclose(
    jax.jit(velocity)(X, jnp.float32(7.)), velocity(X, jnp.float32(7.)),
    rtol=1e-6)
