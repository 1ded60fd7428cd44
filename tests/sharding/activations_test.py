"""Activations are sharded by name, and unchanged without a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.sharding.activations import constrain, constrain_tokens
from sana_jax.sharding.mesh import make_mesh

pytestmark = pytest.mark.fast


def test_without_a_mesh_it_is_the_identity():
  x = jnp.ones((3, 5))
  assert constrain(x, 'batch', 'tokens') is x


def test_each_name_splits_its_axis():
  x = jnp.arange(4 * 6 * 10.0).reshape(4, 6, 10)
  f = jax.jit(lambda x: constrain(2 * x, 'batch', 'tokens', 'width'))
  with jax.set_mesh(make_mesh({'fsdp': 2, 'tensor': 2, 'sequence': 2})):
    y = f(x)
  assert y.addressable_shards[0].data.shape == (2, 3, 5)
  np.testing.assert_array_equal(y, 2 * x)


def test_an_axis_that_does_not_divide_is_left_out():
  with jax.set_mesh(make_mesh({'data': 4, 'sequence': 2})):
    y = jax.jit(lambda x: constrain(x, 'batch', 'tokens', None))(
      jnp.ones((1, 6, 3))
    )
  assert y.addressable_shards[0].data.shape == (1, 3, 3)


@pytest.mark.parametrize(
  'grid, tokens', [((8, 3), 6), ((4, 6), 6), ((6, 4), 24), ((4, 2, 3), 6)]
)
def test_tokens_are_split_by_whole_rows_of_their_grid(grid, tokens):
  with jax.set_mesh(make_mesh({'data': 2, 'sequence': 4})):
    y = jax.jit(lambda x: constrain_tokens(x, grid))(jnp.ones((4, 24, 5)))
  assert y.addressable_shards[0].data.shape == (2, tokens, 5)


def test_inside_a_shard_map_nothing_is_constrained():
  mesh = make_mesh({'data': 8})
  with jax.set_mesh(mesh):
    f = jax.jit(
      jax.shard_map(
        lambda x: constrain(x, 'batch', None),
        in_specs=jax.P('data'),
        out_specs=jax.P('data'),
      )
    )
    np.testing.assert_array_equal(f(jnp.ones((8, 2))), np.ones((8, 2)))


def test_a_missing_name_raises():
  with pytest.raises(ValueError, match='1 names for an array of shape'):
    constrain(jnp.ones((2, 2)), 'batch')
