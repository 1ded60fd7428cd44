"""Bytes by blocks: the formulas, their error, and where the blocks lie."""

import functools
import math
import re

import jax
import numpy as np
import pytest

from sana_jax import config
from sana_jax.optim import blockwise
from sana_jax.optim.blockwise import dequantise, Quantised
from sana_jax.sharding.mesh import make_mesh

pytestmark = pytest.mark.fast


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=1)
def quantise(x, tile):
  return blockwise.quantise(x, tile)


def back_and_forth(x, tile):
  return dequantise(quantise(x, tile), tile)


@pytest.mark.parametrize('tile', [(2, 6), (1, 3), (4, 4), (3, 4), (4, 6)])
def test_each_block_counts_from_its_least_value_in_steps_of_its_range(tile):
  x = normal(4, 6)
  found = quantise(x, tile)
  for i in range(0, 4, tile[0]):
    for j in range(0, 6, tile[1]):
      there = slice(i, i + tile[0]), slice(j, j + tile[1])
      block, at = x[there].astype(np.float64), (i // tile[0], j // tile[1])
      scale = (block.max() - block.min()) / 255
      np.testing.assert_allclose(found.low[at], block.min(), rtol=1e-6)
      np.testing.assert_allclose(found.scale[at], scale, rtol=1e-6)
      np.testing.assert_array_equal(
        found.q[there], np.round((block - block.min()) / scale)
      )
  assert found.q.dtype == np.uint8 and found.q.shape == x.shape


@pytest.mark.parametrize(
  'shape, tile',
  [
    ((64, 48), (32, 48)),
    ((2, 10, 4096), (1, 2048)),
    ((30, 3000), (30, 2048)),
    ((3, 1, 1, 32, 2240), (1, 1120)),
  ],
)
def test_no_value_moves_by_more_than_half_a_scale(shape, tile):
  x = normal(*shape) * np.logspace(-12, 3, shape[-1]).astype(np.float32)
  found = quantise(x, tile)
  after = dequantise(found, tile)
  scale = dequantise(
    Quantised(np.ones(shape, np.uint8), 0 * found.low, found.scale), tile
  )
  # And rounding of float32, of numbers as large as the block's.
  slack = 4 * np.finfo(np.float32).eps * 255 * scale
  assert np.all(np.abs(after - x) <= scale / 2 + slack)
  assert np.mean(np.abs(after - x) > scale / 8) > 0.5  # It does round.


@pytest.mark.parametrize('value', [0.0, -3.7, 1e-37, 1e30])
def test_a_block_of_equal_values_is_exact(value):
  x = np.full((8, 300), value, np.float32)
  found = quantise(x, (4, 300))
  assert np.all(found.scale == 0)
  np.testing.assert_array_equal(back_and_forth(x, (4, 300)), x)


def test_bytes_of_zeros_are_those_that_zeros_have():
  for shape, tile in (((3, 8, 300), (4, 300)), ((5, 7), (2, 4))):
    jax.tree.map(
      np.testing.assert_array_equal,
      blockwise.zeros(shape, tile),
      quantise(np.zeros(shape, np.float32), tile),
    )


def test_the_ends_of_a_block_survive():
  x = normal(16, 128)
  after = back_and_forth(x, (16, 128))
  for end in (np.argmin, np.argmax):
    at = np.unravel_index(end(x), x.shape)
    np.testing.assert_allclose(after[at], x[at], rtol=1e-6)


@pytest.mark.parametrize('largest', [1e-45, 1e-43, 1e-38, 1e-36])
def test_ranges_too_small_to_be_divided_give_no_wrong_byte(largest):
  x = np.linspace(0, largest, 301, dtype=np.float32)[None]
  np.testing.assert_allclose(back_and_forth(x, (1, 301)), x, atol=4e-36)


def test_layers_have_blocks_of_their_own():
  x = normal(3, 8, 16) * np.float32([1, 10, 100])[:, None, None]
  whole = quantise(x, (8, 16))
  for i in range(3):
    for a, b in zip(whole, quantise(x[i], (8, 16))):
      np.testing.assert_array_equal(a[i], b)


@pytest.mark.parametrize(
  'shape, expected',
  [
    ((2240, 2240), (1, 1120)),
    ((2240, 11200), (1, 1400)),
    ((5600, 2240), (1, 1120)),
    ((1152, 1152), (1, 1152)),
    ((128, 144), (8, 144)),
    ((20, 2304, 5760), (1, 1440)),
    ((16411, 2), (1, 2)),
    ((2, 2 * 1031), (1, 1031)),
  ],
)
def test_blocks_of_elements_divide_the_matrix(shape, expected):
  tile = blockwise.element_tile(shape)
  assert tile == expected
  assert math.prod(tile) <= 2048
  assert shape[-2] % tile[0] == shape[-1] % tile[1] == 0


def test_blocks_of_rows_are_those_of_the_official_code():
  # torch.Tensor.split(2048) of a weight (out, in) = (2240, 100).
  x = normal(100, 2240)
  found = quantise(x, blockwise.row_tile(x.shape))
  chunks = [x.T[:2048], x.T[2048:]]
  np.testing.assert_array_equal(found.low[0], [c.min() for c in chunks])
  np.testing.assert_allclose(
    found.scale[0], [(c.max() - c.min()) / 255 for c in chunks], rtol=1e-6
  )


@pytest.mark.parametrize(
  'width', sorted({size['width'] for size in config.SANA_SIZES.values()})
)
def test_blocks_of_every_published_width_are_large(width):
  for i, o in (
    (width, width),
    (width, 5 * width),
    (width * 5 // 2, width),
    (2304, width),
    (width, 32),
    (32, width),
    (256, width),
    (width, 6 * width),
  ):
    assert math.prod(blockwise.element_tile((i, o))) >= 1024


@pytest.mark.parametrize(
  'width, spec',
  [
    (2240, ('fsdp', 'tensor')),
    (5760, ('tensor', 'fsdp')),
    (11200, (None, ('fsdp', 'tensor'))),
  ],
  ids=str,
)
def test_on_a_mesh_bytes_lie_as_their_array_does(width, spec):
  mesh = make_mesh({'fsdp': 2, 'tensor': 4})
  place = jax.NamedSharding(mesh, jax.P(*spec))
  tile = blockwise.element_tile((64, width))
  x = jax.device_put(normal(64, width), place)
  down = jax.jit(
    lambda x: blockwise.quantise(x, tile),
    out_shardings=Quantised(place, *[jax.NamedSharding(mesh, jax.P())] * 2),
  )
  up = jax.jit(lambda x: dequantise(x, tile), out_shardings=place)
  found = down(x)
  for a, b in zip(found, quantise(np.asarray(x), tile)):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_allclose(
    up(found), back_and_forth(np.asarray(x), tile), rtol=1e-6, atol=1e-6
  )
  # The blocks' ranges are all that devices exchange.
  blocks = found.low.size
  assert 0 < _largest_exchange(down, x) <= 2 * blocks
  assert _largest_exchange(up, found) == 0


def _largest_exchange(jitted, x):
  text = jitted.lower(x).compile().as_text()
  sizes = [
    math.prod(map(int, dims.split(',')))
    for dims in re.findall(
      r'\w+\[([\d,]+)\]\S* (?:all-\w+|collective-permute|reduce-scatter)\(',
      text,
    )
  ]
  return max(sizes, default=0)
