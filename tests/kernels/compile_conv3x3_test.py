"""The convolution's TPU kernel passes the TPU compiler, for each chip."""

import functools
import importlib.util
import pathlib
import re

import jax
from jax.experimental.layout import Format, Layout
import jax.numpy as jnp
import pytest

from sana_jax.kernels import conv3x3_norm, conv3x3_silu, dispatch

_spec = importlib.util.spec_from_file_location(
  'topologies', pathlib.Path(__file__).with_name('topologies.py')
)
topologies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(topologies)

pytestmark = pytest.mark.tpu_compiler
TOPOLOGIES = ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1']
# The decoder's at 1024 px, and a small picture of an odd size.
SHAPES = [
  (1, 1024, 1024, 128),
  (1, 512, 512, 256),
  (1, 256, 256, 512),
  (2, 27, 37, 1024),
]


@pytest.fixture(autouse=True, scope='module')
def uncached():
  with topologies.uncached():
    yield


def compiled(op, mesh, shape, dtype=jnp.bfloat16, spec=None):
  """The op on x [b y x c], with as many features."""
  c = shape[-1]
  picture = functools.partial(array, mesh, *shape, dtype=dtype, spec=spec)
  vector = array(mesh, c, dtype=jnp.float32)
  args = picture(), array(mesh, 3, 3, c, c, dtype=dtype), vector
  if op is conv3x3_norm:
    args += vector, picture()
  run = functools.partial(op, implementation='mosaic_tpu')
  with dispatch.platform('tpu'), jax.set_mesh(mesh):
    return jax.jit(run, out_shardings=picture().format).lower(*args).compile()


def array(mesh, *shape, dtype, spec=None):
  # Row by row; else XLA chooses how the arguments lie, and copies them.
  rows = Format(
    Layout(tuple(range(len(shape)))), jax.NamedSharding(mesh, spec or jax.P())
  )
  return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)


def calls(program):
  return [
    re.search(r'%(conv3x3_\w*?)[.\d]* =', line)[1]
    for line in program.as_text().splitlines()
    if '"tpu_custom_call"' in line
  ]


@pytest.mark.parametrize(
  'op', [conv3x3_silu, conv3x3_norm], ids=lambda op: op.name
)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_it_is_one_call_that_stores_no_array_as_large_as_the_picture(
  topology, shape, op
):
  program = compiled(op, topologies.tpu_mesh(topology, {'data': 1}), shape)
  assert calls(program) == [op.name]
  # Weights in another order; with two rows side by side, more of them.
  weights = 3 * 9 * shape[-1] ** 2 * 2
  assert program.memory_analysis().temp_size_in_bytes < weights + 2**20


@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_it_compiles_in_float32(topology):
  mesh = topologies.tpu_mesh(topology, {'data': 1})
  program = compiled(conv3x3_norm, mesh, SHAPES[0], jnp.float32)
  assert calls(program) == ['conv3x3_norm']


@pytest.mark.parametrize(
  'shape, spec, count',
  [
    ({'data': 4}, jax.P('data'), 0),
    ({'data': 2, 'sequence': 2}, jax.P('data', 'sequence'), 2),
  ],
  ids=str,
)
def test_on_a_mesh_only_neighbouring_rows_are_exchanged(shape, spec, count):
  mesh = topologies.tpu_mesh('v5p:2x2x1', shape)
  text = compiled(conv3x3_norm, mesh, (4, 256, 256, 512), spec=spec).as_text()
  assert not re.search(r' all-(gather|to-all)(-start)?\(', text)
  assert len(re.findall(r' collective-permute(?:-start)?\(', text)) == count
