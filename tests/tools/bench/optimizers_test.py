"""Bytes of optimizers by formula, and what their storage loses."""

import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.tools.bench import optimizers, optimizers_report

MODEL = 'sana_600m_1024'


@pytest.fixture(scope='module')
def found():
  return {s.optimizer: s for s in optimizers.states([MODEL])}


def test_moments_are_four_bytes_each(found):
  # Counts of steps and rates are some bytes more.
  count = found['adamw'].parameters
  assert 589e6 < count < 593e6  # 0.6B, as published.
  assert found['lion'].bytes == pytest.approx(4 * count, abs=64)
  assert found['adamw'].bytes == pytest.approx(8 * count, abs=64)


def test_8_bit_came_has_a_byte_an_element_and_eight_a_block(found):
  # Kernels of a block of width d = 1152, hidden h = 2880, as (in, out):
  # 4 + 4 of (d, d), (d, 2 h) and (h, d); with blocks of d and h / 2.
  d, h = 1152, 2880
  elements = 28 * (8 * d * d + 3 * d * h)
  blocks = 28 * (8 * d + 4 * d + h)
  # Outside: time embedding 256 d + d d, modulation 6 d d and caption
  # 2304 d + d d, in blocks of d; modulation in blocks of 6 d / 4.
  elements += 256 * d + 8 * d * d + 2304 * d
  blocks += 256 + d + 4 * d + 2304 + d
  elements += 2 * 32 * d  # The first and last layers.
  blocks += 32 + 32 * d // 2048
  saved = found['came'].bytes - found['came_8bit'].bytes
  assert saved == 3 * elements - 8 * blocks


def test_an_outlier_costs_its_block_alone():
  m = np.random.default_rng(0).normal(size=(256, 2048)).astype(np.float32)
  m[0, 0] = 10_000
  mu = {'kernel': jnp.asarray(m)}
  elements = optimizers.rounding(mu, 'elements')
  rows = optimizers.rounding(mu, 'rows')
  assert (elements.elements, rows.elements) == (2048, m.size)
  # Half a step of 10,000 / 255 is 19.6: all normal numbers are below it.
  assert rows.lost > 0.999
  assert elements.lost < 0.05
  assert rows.worst_of == 'kernel'


def test_uniform_momentum_loses_what_theory_says():
  # A step s of 1 / 255 leaves errors of s / sqrt(12); the norm of uniform
  # numbers in (0, 1) is 1 / sqrt(3) each.
  m = np.random.default_rng(0).uniform(size=(64, 2048)).astype(np.float32)
  found = optimizers.rounding({'kernel': jnp.asarray(m)}, 'elements')
  assert found.error == pytest.approx(1 / 255 / 2, rel=0.02)


def test_a_model_too_small_for_bytes_is_told():
  with pytest.raises(UserError, match='choose a larger one'):
    optimizers.rounding({'kernel': jnp.ones((4, 4))}, 'rows')


def test_the_page_states_what_is_saved(found):
  run = optimizers_report.Run(
    [optimizers.State('sana_1600m_1024', 'adamw', 10**9, 8 * 10**9),
     optimizers.State('sana_1600m_1024', 'came_8bit', 10**9, 10**9)],
    [], MODEL, 0, '2026-01-01', 'cpu', {}, 'sana-jax bench optimizers')
  page = optimizers_report.markdown([run])
  assert 'differ by 7.0 GB' in page and "12.5% of AdamW's" in page
  assert '| adamw | 8.000 | 8.000 |' in page
