"""DiffusionNFT: its loss, gradients and weights against their closed forms."""

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
from ml_collections import ConfigDict
import numpy as np
import pytest

from sana_jax.models import lora
from sana_jax.objectives import policy
from sana_jax.objectives.base import Partial
from sana_jax.sharding import tables


def test_loss_and_gradient_are_those_of_the_formula_in_float64():
  new, old, target = (numbers(3, 4, 5) for _ in range(3))
  r, beta = np.random.default_rng().random(3), 0.3
  with jax.enable_x64(True):
    of_each, gradient = jax.value_and_grad(
      lambda new: jnp.sum(
        policy.losses(
          new, jnp.asarray(old), jnp.asarray(target), jnp.asarray(r), beta
        )
      )
    )(jnp.asarray(new))
  positive = (1 - beta) * old + beta * new
  negative = (1 + beta) * old - beta * new
  square = lambda x: np.mean((x - target) ** 2, axis=(1, 2))
  want = r * square(positive) + (1 - r) * square(negative)
  np.testing.assert_allclose(of_each, want.sum(), rtol=1e-12)
  r = r[:, None, None]
  # 2 beta (r (v+ - v) - (1 - r) (v- - v)), of a mean over 20 elements.
  slope = r * (positive - target) - (1 - r) * (negative - target)
  np.testing.assert_allclose(gradient, 2 * beta * slope / 20, rtol=1e-10)


@pytest.mark.long
def test_the_minimum_is_the_old_velocity_moved_along_its_improvement():
  # Theorem of the paper for one state: v* = v_old + (2 / beta) (r - 1/2)
  # (v - v_old), if all pictures are alike.
  old, target, r, beta = 0.3, 1.5, 0.8, 0.5
  losses = lambda new: policy.losses(
    *(jnp.full((1, 1), x) for x in (new, old, target)), jnp.full(1, r), beta
  )[0]
  best = old + (2 * r - 1) / beta * (target - old)
  assert jax.grad(losses)(best) == pytest.approx(0, abs=1e-6)
  assert losses(best) < min(losses(best + 0.1), losses(best - 0.1))


def test_weights_compare_the_pictures_of_a_prompt():
  rewards = np.array([[1.0, 0.0, 1.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
  # Differences are +-1/2 and 0: their deviation is sqrt(1/8).
  step = 0.5 * 0.5 / (2 * np.sqrt(1 / 8))
  np.testing.assert_allclose(
    policy.weights(rewards, clip=2.0),
    [[0.5 + step, 0.5 - step, 0.5 + step, 0.5 - step], [0.5] * 4],
  )
  np.testing.assert_array_equal(
    policy.weights(rewards, clip=0.1)[0], [1, 0, 1, 0]
  )
  np.testing.assert_array_equal(policy.weights(rewards[1:], 1.0), [[0.5] * 4])


def aim(**changes):
  of, params, factors = adapted()
  nft = {**base_nft(), **changes}

  def split(tree):
    model = {k: x for k, x in tree.items() if k != lora.KEY}
    return model, lora.collection(of, tree[lora.KEY], model)

  return policy.objective(
    MODULE,
    settings('nft'),
    ConfigDict(nft),
    factors=lora.KEY,
    init=lambda rng: params | {lora.KEY: factors},
    rules=tables.with_adapters(tables.SANA, of.ranks),
    tokens=TOKENS,
    partial=Partial(f'{lora.KEY}/.*'),
    split=split,
  )


def base_nft():
  return {'beta': 0.5, 'round_steps': 3, 'old_decay': 0.25}


def case():
  found = aim()
  params = found.init(jax.random.key(0))
  params |= {policy.OLD: jax.tree.map(lambda x: 0.5 * x, params[lora.KEY])}
  data = batch(numbers(3, 4, 4, 3)) | {
    'weight': jnp.array([0.2, 0.5, 0.9]),
    'reward': jnp.array([1.0, 2.0, 6.0]),
  }
  return found, params, data, jax.random.split(jax.random.key(2), 3)


@pytest.mark.long
def test_the_old_policy_moves_at_the_last_step_of_a_round_only():
  found, params, data, rngs = case()
  loss = jax.jit(found.loss)
  factors, old = params[lora.KEY], params[policy.OLD]
  for step in range(6):
    _, aux = loss(params, frozen(), data, rngs, step)
    share = 0.75 if step in (2, 5) else 0
    want = jax.tree.map(lambda a, b: a + share * (b - a), old, factors)  # noqa: B023
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
      aux.extra[policy.OLD],
      want,
    )
    if not share:
      jax.tree.map(np.testing.assert_array_equal, aux.extra[policy.OLD], old)
  assert float(aux.metrics['reward']) == pytest.approx(3)


@pytest.mark.long
def test_the_old_policy_has_no_gradient_and_rules_of_its_own():
  found, params, data, rngs = case()
  grads, _ = jax.jit(jax.grad(found.loss, has_aux=True))(
    params, frozen(), data, rngs, 0
  )
  assert not any(np.any(x) for x in jax.tree.leaves(grads[policy.OLD]))
  assert any(np.any(x) for x in jax.tree.leaves(grads[lora.KEY]))
  patterns = [pattern for pattern, _ in found.rules]
  assert sum(p.startswith(f'{policy.OLD}/') for p in patterns) == sum(
    p.startswith(f'{lora.KEY}/') for p in patterns
  )
