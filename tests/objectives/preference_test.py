"""Diffusion-DPO: its loss and gradients against their closed forms."""

from adapted_sana import (
  adapted,
  batch,
  frozen,
  MODULE,
  numbers,
  settings,
  TOKENS,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.models import abstract, lora
from sana_jax.objectives import flow_matching, preference
from sana_jax.objectives.base import Partial
from sana_jax.sharding import tables

PAIRS, BETA = 3, 40.0


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_loss_and_gradient_are_those_of_the_formula_in_float64():
  with jax.enable_x64(True):
    ours, reference = numbers(PAIRS, 2) ** 2, numbers(PAIRS, 2) ** 2
    got, margin = preference.losses(
      jnp.asarray(ours), jnp.asarray(reference), BETA
    )
    gradient = jax.grad(
      lambda x: jnp.sum(preference.losses(x, jnp.asarray(reference), BETA)[0])
    )(jnp.asarray(ours))
  excess = (ours - reference)[:, 0] - (ours - reference)[:, 1]
  np.testing.assert_allclose(margin, -excess, rtol=1e-12)
  np.testing.assert_allclose(
    got, -np.log(sigmoid(-BETA * excess)), rtol=1e-10, atol=1e-12
  )
  # d/de of -log sigmoid(-beta e) = beta sigmoid(beta e).
  slope = BETA * sigmoid(BETA * excess)
  np.testing.assert_allclose(gradient[:, 0], slope, rtol=1e-10)
  np.testing.assert_allclose(gradient[:, 1], -slope, rtol=1e-10)


@jax.jit
def velocity_of(params, x, t, data, adapters):
  return Denoiser(MODULE)(
    params,
    x,
    t,
    Condition(data['text'], data['mask']),
    adapters=adapters,
  ).velocity()


@pytest.mark.long
def test_loss_is_a_numpy_restatement_with_one_noise_and_time_for_a_pair():
  of, params, factors = adapted()
  collection = lora.collection(of, factors, params)
  data = batch(numbers(PAIRS, 2, 4, 4, 3))
  rngs = jax.random.split(jax.random.key(2), PAIRS)
  got, aux = jax.jit(
    lambda *args: preference.dpo_loss(MODULE, settings(), BETA, *args)
  )(params, collection, frozen(), data, rngs)
  draws = [flow_matching.draw(settings(), (4, 4, 3), rng) for rng in rngs]
  noise = np.stack([np.asarray(noise, np.float64) for noise, _, _ in draws])
  t = np.stack([float(times.t) for _, times, _ in draws])
  latents = np.asarray(data['latents'], np.float64)
  excess = []
  for place in (0, 1):
    x0, time = latents[:, place], t[:, None, None, None]
    x = np.float32((1 - time) * x0 + time * noise)
    ours, base_ = (
      np.mean(
        (velocity_of(params, x, np.float32(t), data, adapters) - (noise - x0))
        ** 2,
        axis=(1, 2, 3),
      )
      for adapters in (collection, None)
    )
    excess.append(ours - base_)
  inside = BETA * (excess[0] - excess[1])
  want = np.mean(np.log1p(np.exp(-np.abs(inside))) + np.maximum(inside, 0))
  np.testing.assert_allclose(float(got), want, rtol=1e-4)
  assert float(aux.metrics['right_order']) == pytest.approx(np.mean(inside < 0))


@pytest.mark.long
def test_at_the_base_the_loss_is_log_2_and_equal_pictures_have_no_gradient():
  of, params, _ = adapted()
  factors = lora.init(jax.random.key(1), of, params)
  data = batch(numbers(PAIRS, 2, 4, 4, 3))
  same = data | {'latents': jnp.repeat(data['latents'][:, :1], 2, axis=1)}
  rngs = jax.random.split(jax.random.key(2), PAIRS)

  def loss(factors, data):
    collection = lora.collection(of, factors, params)
    return preference.dpo_loss(
      MODULE, settings(), BETA, params, collection, frozen(), data, rngs
    )[0]

  run = jax.jit(jax.value_and_grad(loss))
  value, grads = run(factors, data)
  assert float(value) == pytest.approx(np.log(2), abs=1e-4)
  assert max(np.abs(x).max() for x in jax.tree.leaves(grads)) > 1e-3
  _, zero = run(factors, same)
  assert max(np.abs(x).max() for x in jax.tree.leaves(zero)) < 1e-5


def test_batches_are_described_as_pairs_with_a_caption():
  aim = preference.objective(
    MODULE,
    settings(),
    BETA,
    init=abstract.transformer_init(MODULE),
    rules=tables.SANA,
    tokens=TOKENS,
    partial=Partial(),
    split=lambda params: (params, None),
  )
  shapes = {name: x.shape for name, x in aim.batch(5).items()}
  assert shapes == {
    'latents': (5, 2, 4, 4, 3),
    'text': (5, TOKENS, 6),
    'mask': (5, TOKENS),
  }
