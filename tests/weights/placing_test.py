"""Parameters are loaded into their shards and dtype on any mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np
import pytest

from sana_jax.sharding.mesh import make_mesh
from sana_jax.tree import leaves, unflatten
from sana_jax.weights import placing, table
from sana_jax.weights.table import Rule
from sana_jax.weights.tensors import Stored, stored
from sana_jax.weights.transforms import CONV, IDENTITY, LINEAR

pytestmark = pytest.mark.fast

RULES = (
  Rule('embed', 'embed/table'),
  Rule('blocks.{i}.fc', 'blocks/fc/kernel', LINEAR),
  Rule('conv', 'conv/kernel', CONV),
  Rule('count', 'count'),
  Rule('steps', 'steps'),
)
SPECS = {
  'embed/table': jax.P('fsdp', None),
  'blocks/fc/kernel': jax.P(None, 'fsdp', 'tensor'),
  'conv/kernel': jax.P(None, None, None, 'tensor'),
  'count': jax.P(),
  'steps': jax.P(),
}


def some_tensors(reads):
  """Stored tensors that count how often their rows are read."""
  rng = np.random.default_rng()
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  arrays = {
    'embed': draw(8, 6),
    'conv': draw(4, 3, 5, 5),
    'count': np.asarray(3, np.int32),
    'steps': np.arange(3),
    **{f'blocks.{i}.fc': draw(8, 4) for i in range(11)},
  }

  def counting(key, array):
    def fetch(start, stop):
      reads[key] = reads.get(key, 0) + stop - start
      return array[start:stop] if array.ndim else array

    return Stored(array.shape, array.dtype, fetch)

  return arrays, {k: counting(k, x) for k, x in arrays.items()}


def expected(arrays):
  return {
    'embed/table': arrays['embed'],
    'count': arrays['count'],
    'steps': arrays['steps'],
    'conv/kernel': arrays['conv'].transpose(2, 3, 1, 0),
    'blocks/fc/kernel': np.stack(
      [arrays[f'blocks.{i}.fc'].T for i in range(11)]
    ),
  }


def shapes(arrays):
  return unflatten(
    {
      path: jax.ShapeDtypeStruct(x.shape, x.dtype)
      for path, x in expected(arrays).items()
    }
  )


@pytest.mark.parametrize(
  'sizes', [None, dict(fsdp=2, tensor=4), dict(data=2, fsdp=4), dict(data=8)]
)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_every_shard_has_its_values_and_each_tensor_is_read_once(sizes, dtype):
  reads = {}
  arrays, tensors = some_tensors(reads)
  shardings = None
  if sizes:
    mesh = make_mesh({a: sizes.get(a, 1) for a in ('data', 'fsdp', 'tensor')})
    shardings = unflatten(
      {path: NamedSharding(mesh, spec) for path, spec in SPECS.items()}
    )
  params = table.load(RULES, tensors, shapes(arrays), dtype, shardings)
  for path, want in expected(arrays).items():
    got = leaves(params)[path]
    if np.issubdtype(want.dtype, np.floating):
      want = want.astype(dtype)
    assert got.dtype == jax.dtypes.canonicalize_dtype(want.dtype)
    np.testing.assert_array_equal(np.asarray(got), want)
    if shardings:
      assert got.sharding == leaves(shardings)[path]
  assert reads == {k: x.shape[0] if x.ndim else 1 for k, x in arrays.items()}


def test_arrays_without_a_sharding_combine_with_any_others():
  arrays, tensors = some_tensors({})
  params = table.load(RULES, tensors, shapes(arrays), jnp.float32)
  assert not any(x.committed for x in jax.tree.leaves(params))


def test_large_tensors_are_read_in_pieces(monkeypatch):
  monkeypatch.setattr(placing, '_PIECE', 100)
  x = np.random.default_rng().normal(size=(37, 5)).astype(np.float32)
  pieces = list(placing.Part(stored(x), IDENTITY).pieces())
  assert len(pieces) == 8  # Of five rows, of 20 bytes each.
  np.testing.assert_array_equal(np.concatenate([p for _, p in pieces]), x)
  mesh = make_mesh(dict(fsdp=8))
  got = placing.on_devices(
    (40, 5),
    [placing.Part(stored(np.concatenate([x, x[:3]])), IDENTITY)],
    False,
    jnp.float32,
    NamedSharding(mesh, jax.P('fsdp')),
  )
  np.testing.assert_array_equal(got, np.concatenate([x, x[:3]]))
