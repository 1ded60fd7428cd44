"""NVILA's projector, scales, and places of a picture's tokens in a text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models.nvila import NVILA, Projector
from sana_jax.models.nvila.model import IMAGE
from sana_jax.models.nvila.projector import merged
from sana_jax.models.nvila.scales import averaged, cut, features, joined, Scales
from sana_jax.models.qwen2 import Qwen2
from sana_jax.models.siglip import SigLIP

fast = pytest.mark.fast


def normal(*shape):
  return jnp.asarray(np.random.default_rng().normal(size=shape), jnp.float32)


@fast
def test_merged_patches_are_ordered_by_row_column_and_channel():
  x = normal(2, 4, 5, 2)
  got = merged(x, 3)
  padded = np.pad(x, ((0, 0), (0, 2), (0, 1), (0, 0)))
  assert got.shape == (2, 2, 2, 18)
  for i in range(2):
    for j in range(2):
      want = padded[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].reshape(2, -1)
      np.testing.assert_array_equal(got[:, i, j], want)


@fast
def test_tiles_are_joined_as_they_are_cut():
  x = normal(2, 6, 8, 3)
  tiles = cut(x, (3, 2))
  assert tiles.shape == (2, 6, 2, 4, 3)
  np.testing.assert_array_equal(tiles[:, 1], x[:, :2, 4:])
  np.testing.assert_array_equal(joined(tiles, (3, 2)), x)


@fast
def test_averages_are_means_over_areas_or_repeat():
  x = normal(1, 4, 6, 2)
  np.testing.assert_allclose(
    averaged(x, 2, 2)[0, 0, 1], x[0, :2, 3:].mean((0, 1)), rtol=1e-5
  )
  np.testing.assert_allclose(
    averaged(x, 8, 12), x.repeat(2, axis=1).repeat(2, axis=2), rtol=1e-6
  )
  uneven = averaged(x[:, :2, :2, :1], 3, 2)
  np.testing.assert_allclose(uneven[0, 1], x[0, :2, :2, :1].mean(0), rtol=1e-5)


@fast
def test_scales_are_joined_by_channel_in_ascending_order():
  x = normal(1, 5, 2, 2, 3)
  got = features(x, Scales(((1, 1), (2, 2))))
  assert got.shape == (1, 2, 2, 6)
  np.testing.assert_array_equal(got[..., :3], x[:, 0])
  np.testing.assert_allclose(
    got[0, 0, 1, 3:], x[0, 2].mean((0, 1)), rtol=1e-5, atol=1e-6
  )
  large = features(x, Scales(((1, 1), (2, 2)), -1))
  assert large.shape == (1, 4, 4, 6)
  np.testing.assert_array_equal(large[0, 2:, :2, 3:], x[0, 3])


def tiny(maps=1):
  """A judge, its parameters, and one arrangement of `maps` scales."""
  module = NVILA(
    tower=SigLIP(image_size=8, patch=2, width=6, depth=1, heads=2, hidden=8),
    projector=Projector(merge=3, widths=(9, 8, 8)),
    llm=Qwen2(vocab_size=11, width=8, depth=1, heads=2, kv_heads=1, hidden=6),
  )
  scales = Scales(((1, 1),) * maps) if maps > 1 else None
  tokens = jnp.zeros((1, 1), jnp.int32)
  params = jax.jit(
    lambda rng: module.init(
      rng, jnp.zeros((1, maps, 8, 8, 3)), tokens, tokens == 0, scales
    )
  )(jax.random.key(0))
  return module, params


@pytest.mark.long
def test_a_picture_takes_the_place_of_its_tokens():
  """The logits are those of the language model on the joined sequence."""
  module, params = tiny()
  tiles = normal(2, 2, 8, 8, 3)
  assert module.count(2) == 8
  rows = [[3, *[IMAGE] * 4, 5, *[IMAGE] * 4, 7, 1], [*[IMAGE] * 8, 2]]
  length = max(map(len, rows)) + 2
  tokens = np.zeros((2, length), np.int32)
  mask = np.zeros((2, length), bool)
  for i, row in enumerate(rows):
    tokens[i, : len(row)], mask[i, : len(row)] = row, True
  apply = jax.jit(module.apply, static_argnames='method')
  got = apply(params, tiles, tokens, mask)
  seen = apply(params, tiles, method='seen')
  llm = jax.jit(module.llm.apply, static_argnames='method')
  own = {'params': params['params']['llm']}
  table = own['params']['table']['embedding']
  for i, row in enumerate(rows):
    pictures = iter(seen[i])
    x = [next(pictures) if t == IMAGE else table[t] for t in row]
    states = llm(
      own, jnp.stack(x)[None], jnp.ones((1, len(row)), bool), method='states'
    )
    want = llm(own, states[0, -1], method='logits')
    np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
  'scales',
  [
    None,
    Scales(((1, 1), (2, 2))),
    Scales(((1, 1), (2, 2)), -1),
    Scales(((1, 1), (2, 3)), -1, by_tile=True),
  ],
)
def test_the_count_of_tokens_is_that_of_the_features(scales):
  module, params = tiny(2 if scales else 1)
  tiles = scales.tiles if scales else 3
  seen = jax.eval_shape(
    lambda p, x: module.apply(p, x, scales, method='seen'),
    params,
    jax.ShapeDtypeStruct((1, tiles, 8, 8, 3), np.float32),
  )
  assert seen.shape == (1, module.count(tiles, scales), 8)
