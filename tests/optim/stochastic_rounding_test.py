"""Stochastic rounding: unbiased, and only ever to a neighbour."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.optim import stochastic_rounding as rounding

pytestmark = pytest.mark.fast

DRAWS = 20_000


def draws(value, count=DRAWS):
  """Random roundings of one float32, in float64."""
  x = jnp.full(count, value, jnp.float32)
  found = jax.jit(rounding.stochastic_round)(x, jax.random.key(0))
  assert found.dtype == jnp.bfloat16
  return np.asarray(found, np.float64)


# Bfloat16 has 8 bits: between 1 and 2 they are 2^-7 apart, below 1 2^-8.
@pytest.mark.parametrize(
  'below, above, part',
  [
    (1.0, 1 + 2**-7, 0.25),
    (1.0, 1 + 2**-7, 0.5),
    (1.0, 1 + 2**-7, 2**-10),
    (-1 - 2**-7, -1.0, 0.75),
    (1 - 2**-8, 1.0, 0.9),
    (2.0 - 2**-6 / 2, 2.0, 0.5),
    (2.0**100, 2.0**100 * (1 + 2**-7), 0.125),
    (0.3125, 0.3125 + 2**-9, 0.75),
  ],
)
def test_the_mean_is_the_value_and_neighbours_alone_come(below, above, part):
  value = np.float32(below + part * (above - below))
  found = (draws(value) - below) / (above - below)
  assert set(np.unique(found)) <= {0.0, 1.0}
  # A coin of probability p: five standard deviations.
  deviation = np.sqrt(part * (1 - part) / DRAWS)
  assert abs(found.mean() - part) < 5 * deviation
  assert len(np.unique(found)) == 2


@pytest.mark.parametrize(
  'value',
  [0.0, -0.0, 1.0, -1.5, 2**-20, 3.3895314e38, -3.3895314e38, np.inf, -np.inf],
)
def test_representable_values_are_exact(value):
  value = float(jnp.bfloat16(value))
  found = draws(value, 1000)
  assert np.all(found == value)
  assert np.all(np.signbit(found) == np.signbit(value))


@pytest.mark.parametrize(
  'bits', [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], ids=hex
)
def test_nan_stays_nan(bits):
  value = np.array(bits, np.uint32).view(np.float32)
  x = jax.lax.bitcast_convert_type(
    jnp.full(1000, bits, jnp.uint32), jnp.float32
  )
  assert np.isnan(value)
  assert jnp.isnan(rounding.stochastic_round(x, jax.random.key(0))).all()


def test_the_largest_numbers_do_not_become_infinite():
  largest = float(jnp.finfo(jnp.bfloat16).max)
  for sign in (1, -1):
    found = draws(sign * np.finfo(np.float32).max)
    assert np.all(found == sign * largest)


def test_steps_below_the_spacing_add_up():
  # 400 steps of 2^-12 from 1: 2^-7 apart, each would be lost by rounding to
  # the nearest. Deviations are at most half the spacing a step.
  step = jax.jit(
    lambda p, key: rounding.apply_updates(
      p, {'w': jnp.full(1000, 2.0**-12)}, key
    )
  )
  params = {'w': jnp.ones(1000, jnp.bfloat16)}
  for i in range(400):
    params = step(params, jax.random.fold_in(jax.random.key(0), i))
  moved = np.asarray(params['w'], np.float64) - 1
  spread = 2**-7 * np.sqrt(400 * 2**-5)  # Coins of 1/32, 2^-7 each.
  assert abs(moved.mean() - 400 * 2**-12) < 5 * spread / np.sqrt(1000)


def test_float32_parameters_are_added_to_and_leaves_draw_apart():
  params = {
    'a': jnp.ones(3),
    'b': jnp.ones(64, jnp.bfloat16),
    'c': jnp.ones(64, jnp.bfloat16),
  }
  updates = jax.tree.map(lambda p: jnp.full(p.shape, 2.0**-8), params)
  found = rounding.apply_updates(params, updates, jax.random.key(0))
  np.testing.assert_array_equal(found['a'], np.float32(1 + 2.0**-8))
  assert found['b'].dtype == jnp.bfloat16
  assert np.any(found['b'] != found['c'])


def test_keys_that_a_task_may_draw_from_are_not_used():
  # A task splits the same key or folds small numbers into it.
  key, x = jax.random.key(0), jnp.full(64, 1 + 2.0**-8)
  ours = rounding.apply_updates(
    {'w': jnp.ones(64, jnp.bfloat16)}, {'w': x - 1}, key
  )['w']
  for other in (key, *jax.random.split(key, 8)):
    assert np.any(
      ours != rounding.stochastic_round(x, jax.random.fold_in(other, 0))
    )
