"""Losses of the latent discriminator, against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.objectives import latent_adversarial
from sana_jax.objectives.latent_adversarial import LOSSES

pytestmark = pytest.mark.fast


def full(value, count=2):
  return jnp.full((count, 3), float(value))


@pytest.mark.parametrize(
  'name, logit, want',
  [
    ('hinge', 2, -2),
    ('hinge', -3, 3),
    ('cross_entropy', 0, math.log(2)),
    ('cross_entropy', math.log(3), math.log(4 / 3)),
    ('cross_entropy', -200, 200),
  ],
)
def test_the_generator_gains_by_higher_logits(name, logit, want):
  got = LOSSES[name].generator(full(logit))
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
  'name, real, fake, want',
  [
    ('hinge', 1, -1, 0),
    ('hinge', 0, 2, 2),
    ('cross_entropy', 0, 0, 2 * math.log(2)),
    ('cross_entropy', math.log(3), math.log(3), math.log(16 / 3)),
    ('cross_entropy', -200, 200, 400),
    ('cross_entropy', 200, -200, 0),
  ],
)
def test_the_discriminator_separates_real_ones_from_any_number_of_fakes(
  name, real, fake, want
):
  got = LOSSES[name].discriminator(full(real), full(fake, count=5))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_penalty_of_linear_heads_is_the_length_of_their_weights():
  """Of 4 tokens each, whatever the batch; the mean over two heads."""
  weights = np.float32([1, 2]), np.float32([3, 0])
  score = lambda x: jnp.concatenate([f @ w for f, w in zip(x, weights)], axis=1)
  given = [jnp.ones((3, 4, 2))] * 2
  penalty = latent_adversarial.gradient_penalty(score, given)
  np.testing.assert_allclose(penalty, 4 * (5 + 9) / 2, rtol=1e-6)


def test_the_penalty_is_a_mean_over_examples_and_has_a_gradient():
  """Of a x^2 / 2: the mean of a^2 |x|^2, with a gradient by a."""
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 2)), jnp.float32)
  penalty = lambda a: latent_adversarial.gradient_penalty(
    lambda f: a / 2 * jnp.sum(f[0] ** 2, axis=2), [x]
  )
  value, slope = jax.jit(jax.value_and_grad(penalty))(3.0)
  np.testing.assert_allclose(value, 9 * jnp.sum(x**2) / 3, rtol=1e-5)
  np.testing.assert_allclose(slope, 6 * jnp.sum(x**2) / 3, rtol=1e-5)


def test_misaligned_latents_are_those_of_the_previous_example():
  latents = jnp.arange(3.0)[:, None, None, None] * jnp.ones((3, 2, 2, 1))
  got = latent_adversarial.misaligned(latents)
  np.testing.assert_array_equal(got[:, 0, 0, 0], [2, 0, 1])
