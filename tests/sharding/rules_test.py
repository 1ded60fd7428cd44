"""The table is total and exact, and holds for the optimizer's state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
import optax
import pytest

from sana_jax.sharding import rules
from sana_jax.sharding.mesh import make_mesh

pytestmark = pytest.mark.fast

PARAMS = {
  'blocks': {'qkv': {'kernel': jnp.ones((3, 16, 24)), 'bias': jnp.ones(24)}},
  'out': {'kernel': jnp.ones((16, 8))},
}
TABLE = [
  (r'blocks/.*/kernel', (None, 'fsdp', 'tensor')),
  (r'.*/bias', ()),
  (r'out/kernel', (('data', 'fsdp'),)),
]


@pytest.fixture
def mesh():
  return make_mesh({'data': 2, 'fsdp': 4})


def test_axes_that_the_mesh_lacks_are_dropped(mesh):
  found = rules.shardings(PARAMS, TABLE, mesh)
  assert found['blocks']['qkv']['kernel'].spec == jax.P(None, 'fsdp', None)
  assert found['out']['kernel'].spec == jax.P(('data', 'fsdp'))
  alone = rules.shardings(PARAMS, TABLE, make_mesh({'tensor': 8}))
  assert alone['blocks']['qkv']['kernel'].spec == jax.P(None, None, 'tensor')
  assert alone['out']['kernel'].spec == jax.P(None)


def test_moments_lie_like_their_parameters(mesh):
  tx = optax.adamw(1e-3)
  found = rules.shardings(PARAMS, TABLE, mesh)
  state = jax.jit(
    tx.init, out_shardings=rules.state_shardings(tx, PARAMS, found, mesh)
  )(PARAMS)
  moment = state[0].mu['out']['kernel']
  assert moment.addressable_shards[0].data.shape == (2, 8)
  assert state[0].nu['blocks']['qkv']['kernel'].sharding.spec == jax.P(
    None, 'fsdp', None
  )
  assert state[0].count.sharding.spec == jax.P()


def test_factored_statistics_are_replicated(mesh):
  tx = optax.adafactor(1e-3, min_dim_size_to_factor=4, momentum=0.9)
  found = rules.shardings(PARAMS, TABLE, mesh)
  state = rules.state_shardings(tx, PARAMS, found, mesh)
  shapes = jax.eval_shape(tx.init, PARAMS)
  checked = jax.tree.map(
    lambda x, s: s.spec == jax.P() or x.shape == (16, 8) or x.ndim == 3,
    shapes,
    state,
  )
  assert jax.tree.all(checked)
  specs = [s.spec for s in jax.tree.leaves(state)]
  assert jax.P(('data', 'fsdp')) in specs  # The momentum is split.


class Pair(NamedTuple):
  like: jax.Array
  mean: jax.Array


def test_the_fields_of_a_tuple_for_a_parameter_are_sharded_separately(mesh):
  keep = lambda p: Pair(jnp.zeros(p.shape, jnp.uint8), p.mean(-1))
  tx = optax.GradientTransformation(
    lambda params: {'kept': jax.tree.map(keep, params), 'count': jnp.ones(2)},
    lambda updates, state, params=None: (updates, state),
  )
  found = rules.shardings(PARAMS, TABLE, mesh)
  state = rules.state_shardings(tx, PARAMS, found, mesh)
  jax.tree.map(
    lambda kept, ours: (
      [kept.like.spec, kept.mean.spec] == [ours.spec, jax.P()]
      or pytest.fail(str(kept))
    ),
    state['kept'],
    found,
    is_leaf=lambda x: isinstance(x, Pair),
  )
  placed = jax.jit(tx.init, out_shardings=state)(PARAMS)
  shards = placed['kept']['out']['kernel'].like.addressable_shards
  assert shards[0].data.shape == (2, 8)


def test_one_error_names_every_problem(mesh):
  table = [(r'blocks/.*', (None, 'fsdp')), (r'.*/kernel', ()), (r'head/.*', ())]
  with pytest.raises(rules.RuleError) as e:
    rules.shardings(PARAMS, table, mesh)
  assert 'blocks/qkv/kernel (3, 16, 24): 2 patterns match' in str(e.value)
  assert "blocks/qkv/bias (24,): (None, 'fsdp') has more axes" in str(e.value)
  assert "'head/.*' matches no parameter" in str(e.value)


@pytest.mark.parametrize(
  'spec, message',
  [
    (
      ('fsdp',),
      '^fsdp=4 does not divide 6 of w; set mesh.fsdp=2 and mesh.data=-1$',
    ),
    ((('data', 'fsdp'),), '6 is not divisible by data x fsdp=8'),
    ((None, 'model'), "'model' is no mesh axis"),
  ],
)
def test_a_row_that_does_not_fit_raises(mesh, spec, message):
  with pytest.raises(rules.RuleError, match=message):
    rules.shardings({'w': jnp.ones((6, 8))}, [('w', spec)], mesh)


def test_an_axis_that_is_too_long_is_reported_once_with_one_that_fits():
  mesh = AbstractMesh((128,), ('fsdp',))
  shapes = {
    name: jax.ShapeDtypeStruct((size, 8), jnp.float32)
    for name, size in dict(a=2240, b=2304, c=2240, d=2240).items()
  }
  with pytest.raises(rules.RuleError) as e:
    rules.shardings(shapes, [('.', ('fsdp',))], mesh)
  assert str(e.value) == (
    'fsdp=128 does not divide 2240 of a, 2240 of c and 1 more; '
    'set mesh.fsdp=64 and mesh.data=-1'
  )
  fits = AbstractMesh((2, 64), ('data', 'fsdp'))
  rules.shardings(shapes, [('.', ('fsdp',))], fits)


def test_a_duplicate_row_raises(mesh):
  with pytest.raises(rules.RuleError, match='is in the table twice'):
    rules.shardings({'w': jnp.ones(8)}, [('w', ()), ('w', ('fsdp',))], mesh)
