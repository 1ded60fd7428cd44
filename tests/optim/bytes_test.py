"""Bytes of optimizers' states by formula, and what bytes lose by theory."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from sana_jax import config as configs
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.optim import blockwise, factory

pytestmark = pytest.mark.fast


@pytest.fixture(scope='module')
def shapes():
  return abstract.transformer(Sana(**configs.SANA_SIZES['sana_600m_1024']))


def state_bytes(name, shapes):
  tx = factory.make(ConfigDict({'name': name, 'learning_rate': 1e-4}), 1)
  return sum(
    x.size * x.dtype.itemsize
    for x in jax.tree.leaves(jax.eval_shape(tx.init, shapes))
  )


def test_moments_are_four_bytes_each(shapes):
  # Counts of steps and rates are some bytes more.
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert 589e6 < count < 593e6  # 0.6B, as published.
  assert state_bytes('lion', shapes) == pytest.approx(4 * count, abs=64)
  assert state_bytes('adamw', shapes) == pytest.approx(8 * count, abs=64)


def test_8_bit_came_has_a_byte_an_element_and_eight_a_block(shapes):
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
  saved = state_bytes('came', shapes) - state_bytes('came_8bit', shapes)
  assert saved == 3 * elements - 8 * blocks


def lost(m, blocks):
  """The relative error of stored momentum, and the share below half a step."""
  tile = blockwise.TILES[blocks](m.shape)

  @jax.jit
  def step_and_value(m):
    stored = blockwise.quantise(m, tile)
    ones = stored._replace(q=jnp.ones_like(stored.q), low=0 * stored.low)
    return tuple(blockwise.dequantise(x, tile) for x in (ones, stored))

  step, value = step_and_value(m)
  error = m - value
  return (
    np.linalg.norm(error) / np.linalg.norm(m),
    np.mean(np.abs(m) < step / 2),
  )


def test_an_outlier_costs_its_block_alone():
  m = np.random.default_rng(0).normal(size=(256, 2048)).astype(np.float32)
  m[0, 0] = 10_000
  # Half a step of 10,000 / 255 is 19.6: all normal numbers are below it.
  assert lost(m, 'rows')[1] > 0.999
  assert lost(m, 'elements')[1] < 0.05


def test_uniform_momentum_loses_what_theory_says():
  # A step s of 1 / 255 leaves errors of s / sqrt(12); the norm of uniform
  # numbers in (0, 1) is 1 / sqrt(3) each.
  m = np.random.default_rng(0).uniform(size=(64, 2048)).astype(np.float32)
  assert lost(m, 'elements')[0] == pytest.approx(1 / 255 / 2, rel=0.02)
