"""A block works on tokens; only Mix-FFN uses their grid."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from sana_jax.analysis import collectives, hlo
from sana_jax.models import abstract
from sana_jax.models.block import Block, BlockFields
from sana_jax.models.mix_ffn import MixFFN
from sana_jax.models.sana import Sana
from sana_jax.sharding.mesh import make_mesh

MODEL = Sana(
  width=16,
  depth=2,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
)
GRIDS = [(4, 6), (6, 4), (1, 24)]


def normal(*shape):
  return jnp.asarray(np.random.default_rng().normal(size=shape), jnp.float32)


def run_block(kernel_of):
  """The same tokens through one block on each grid; its 3x3 kernel changed."""
  block = Block(BlockFields.of(MODEL))
  args = normal(2, 24, 16), normal(2, 6, 16), normal(2, 5, 16), normal(2, 5)
  shapes = jax.eval_shape(
    lambda key: block.init(key, *args, grid=GRIDS[0])['params'],
    jax.random.key(0),
  )
  params = jax.tree.map(lambda s: normal(*s.shape) * 0.3, shapes)
  depthwise = params['mix_ffn']['depthwise']
  depthwise['kernel'] = kernel_of(depthwise['kernel'])
  run = jax.jit(
    lambda params, *args: [
      block.apply({'params': params}, *args, grid=g)[0] for g in GRIDS
    ]
  )
  return run(params, *args)


def test_without_neighbours_any_grid_gives_the_same_tokens():
  centre = jnp.zeros((3, 3, 1)).at[1, 1].set(1.0)
  first, *others = run_block(lambda kernel: kernel * centre)
  assert first.shape == (2, 24, 16)
  for tokens in others:
    np.testing.assert_allclose(tokens, first, rtol=1e-5, atol=1e-5)


def test_neighbours_are_those_of_the_grid():
  first, *others = run_block(lambda kernel: kernel)
  for tokens in others:
    assert np.abs(tokens - first).max() > 1e-2


def test_mix_ffn_spreads_a_token_to_its_neighbours_on_the_grid():
  ffn, tokens = MixFFN(2.5, jnp.float32), normal(1, 24, 16)
  params = jax.jit(ffn.init, static_argnums=2)(
    jax.random.key(0), tokens, (4, 6)
  )
  run = jax.jit(lambda x: ffn.apply(params, x, (4, 6)).reshape(4, 6, 16))
  changed = run(tokens.at[:, 5].add(1.0)) != run(tokens)  # The first row's end.
  want = np.zeros((4, 6), bool)
  want[:2, 4:] = True
  np.testing.assert_array_equal(changed.any(-1), want)


@pytest.mark.long
@pytest.mark.parametrize('patch_size', [1, 2])
def test_sharded_rows_are_neither_gathered_nor_exchanged_for_tokens(patch_size):
  # Communication: sums of the attention's states, and rows at borders.
  module = MODEL.clone(patch_size=patch_size, interpolation_scale=1.0)
  mesh = make_mesh({'data': 2, 'sequence': 4})
  rows, whole = P('data', 'sequence'), P('data')
  array = lambda spec, *shape: jax.ShapeDtypeStruct(
    shape, jnp.float32, sharding=NamedSharding(mesh, spec)
  )
  latents = array(rows, 4, 16, 8, 3)
  args = latents, array(whole, 4), array(whole, 4, 5, 6)
  with jax.set_mesh(mesh):
    run = jax.jit(
      lambda params, *args: module.apply({'params': params}, *args),
      out_shardings=latents.sharding,
    )
    text = run.lower(abstract.transformer(module), *args).compile().as_text()
  kinds = set(collectives.count(hlo.parse(text)))
  assert kinds == {'all-reduce', 'collective-permute'}
