"""Training times."""

import jax
import numpy as np
import pytest

from sana_jax.diffusion import flow
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast

# The standard normal's distribution at -1, 0 and 1.
NORMAL_CDF = {-1.0: 0.158655, 0.0: 0.5, 1.0: 0.841345}


def test_the_shift_keeps_the_ends_and_moves_the_middle_towards_noise():
  # 3 * 0.5 / (1 + 2 * 0.5) = 0.75, SANA's value (2410.10629).
  np.testing.assert_allclose(
    flow.shift_time(np.array([0.0, 0.5, 1.0]), 3.0), [0.0, 0.75, 1.0]
  )


@pytest.mark.parametrize(
  'mean, std, shift', [(0.0, 1.0, 1.0), (-0.5, 1.2, 3.0)]
)
def test_logit_normal_times_have_the_quantiles_of_the_density(mean, std, shift):
  t, timestep = flow.sample_times(
    jax.random.key(1), 20_000, mean=mean, std=std, shift=shift
  )
  for z, expected in NORMAL_CDF.items():
    bound = flow.shift_time(1 / (1 + np.exp(-mean - std * z)), shift)
    np.testing.assert_allclose(np.mean(t < bound), expected, atol=0.012)
  np.testing.assert_allclose(timestep, 1000 * t, rtol=1e-6)


def test_uniform_times_are_uniform_before_the_shift():
  t, _ = flow.sample_times(
    jax.random.key(2), 20_000, density='uniform', shift=3.0
  )
  for u in (0.1, 0.5, 0.9):
    np.testing.assert_allclose(
      np.mean(t < flow.shift_time(u, 3.0)), u, atol=0.012
    )


@pytest.mark.parametrize('std', [1.0, 100.0])
def test_continuous_times_lie_strictly_inside_0_and_1(std):
  t, _ = flow.sample_times(jax.random.key(3), 4096, std=std, shift=6.0)
  assert t.min() > 0 and t.max() < 1


def test_discrete_times_are_entries_of_the_official_table():
  t, timestep = flow.sample_times(
    jax.random.key(4), 20_000, shift=3.0, discrete=True
  )
  i = np.rint(1000 * t / (3 - 2 * t))  # The shift inverted.
  np.testing.assert_allclose(
    t, 3 * (i / 1000) / (1 + 2 * (i / 1000)), rtol=1e-6
  )
  for index, expected in [(500, 750), (501, 750), (800, 923)]:
    # 3 * 0.501 / 2.002 = 0.75075; 2.4 / 2.6 = 0.92308.
    assert set(np.asarray(timestep)[i == index]) == {expected}


def test_the_discrete_index_is_within_the_table_for_extreme_draws():
  t, timestep = flow.sample_times(
    jax.random.key(5), 4096, std=100.0, discrete=True
  )
  assert t.min() == 0 and timestep.max() == 999


def test_an_unknown_density_names_the_allowed_ones():
  with pytest.raises(UserError) as error:
    flow.sample_times(jax.random.key(0), 1, density='cosmap')
  assert (error.value.key, error.value.value) == ('density', 'cosmap')
  assert error.value.allowed == ('logit_normal', 'uniform')


def test_a_shift_that_is_not_positive_is_refused():
  with pytest.raises(UserError) as error:
    flow.sample_times(jax.random.key(0), 1, shift=-1.0)
  assert (error.value.key, error.value.value) == ('shift', -1.0)
