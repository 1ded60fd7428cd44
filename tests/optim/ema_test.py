"""The mean of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.optim import ema

pytestmark = pytest.mark.fast


def test_the_first_updates_follow_the_parameters():
  # 0.1 * 5 + 0.9 * 10, then decay 2/11.
  mean = ema.update(ema.init({'a': jnp.array(5.0)}), {'a': 10.0}, 0.9999, 0)
  np.testing.assert_allclose(mean['a'], 9.5, rtol=1e-6)
  mean = ema.update(mean, {'a': jnp.array(0.0)}, 0.9999, 1)
  np.testing.assert_allclose(mean['a'], 9.5 * 2 / 11, rtol=1e-6)


def test_the_decay_is_the_limit():
  mean = ema.update({'a': jnp.array(1.0)}, {'a': jnp.array(2.0)}, 0.75, 10**6)
  np.testing.assert_allclose(mean['a'], 1.25, rtol=1e-6)


def test_nothing_is_left_of_the_start():
  def body(step, mean):
    return ema.update(mean, {'a': jnp.array(3.0)}, 0.9999, step)

  mean = jax.lax.fori_loop(0, 100, body, {'a': jnp.array(1e6)})
  np.testing.assert_allclose(mean['a'], 3.0, rtol=1e-5)


def test_the_mean_is_a_float32_copy():
  params = {'a': jnp.ones(3, jnp.bfloat16), 'b': jnp.ones(3)}
  mean = ema.init(params)
  params['b'].delete()  # As donation does.
  assert mean['a'].dtype == mean['b'].dtype == jnp.float32
  np.testing.assert_array_equal(mean['b'], 1.0)
  params = {'a': params['a'], 'b': jnp.ones(3)}
  assert ema.update(mean, params, 0.9, 0)['a'].dtype == jnp.float32
