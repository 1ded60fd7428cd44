"""The TPU kernels pass the TPU compiler (libtpu), for each kind of chip."""

import collections
import functools
import importlib.util
import pathlib
import re

import jax
from jax.experimental.layout import Format, Layout
import jax.numpy as jnp
import pytest

from sana_jax.kernels import dispatch, relu_linear_attention

_spec = importlib.util.spec_from_file_location(
  'topologies', pathlib.Path(__file__).with_name('topologies.py')
)
topologies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(topologies)

pytestmark = pytest.mark.tpu_compiler
TOPOLOGIES = ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1']
FORWARD = {'state': 1, 'read': 1}
TRAINING = {**FORWARD, 'read_backward': 1, 'state_backward': 1}


@pytest.fixture(autouse=True, scope='module')
def uncached():
  with topologies.uncached():
    yield


def attend(shape, implementation, *qkv):
  """Of arrays as a model's projections leave them, [b n h*d]."""
  out = relu_linear_attention(
    *(x.reshape(shape) for x in qkv), implementation=implementation
  )
  return out.reshape(qkv[0].shape)


def compiled(mesh, shape, dtype, *, implementation='mosaic_tpu', training=True):
  """The attention of [b n h d], with its gradients if `training`."""
  f = functools.partial(attend, shape, implementation)

  def run(dout, *qkv):
    if not training:
      return f(*qkv)
    out, back = jax.vjp(f, *qkv)
    return out, *back(dout)

  b, n, h, d = shape
  spec = jax.P(
    'data' if 'data' in mesh.shape else None,
    'sequence' if 'sequence' in mesh.shape else None,
  )
  # Row by row; else XLA chooses how the arguments lie, and copies them.
  rows = Format(Layout((0, 1, 2)), jax.NamedSharding(mesh, spec))
  x = jax.ShapeDtypeStruct((b, n, h * d), dtype, sharding=rows)
  with dispatch.platform('tpu'), jax.set_mesh(mesh):
    return jax.jit(run, out_shardings=rows).lower(x, x, x, x).compile()


def calls(program):
  """How often each kernel is called."""
  names = (
    re.search(r'relu_linear_attention_([a-z]+(_backward)?)', line)
    for line in program.as_text().splitlines()
    if '"tpu_custom_call"' in line
  )
  return collections.Counter(name[1] for name in names)


def temporaries(program):
  return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('topology', TOPOLOGIES)
@pytest.mark.parametrize(
  'shape, dtype',
  [
    ((2, 256, 36, 32), 'bfloat16'),
    ((16, 1024, 70, 32), 'bfloat16'),
    ((2, 4096, 70, 32), 'float32'),
    ((1, 1, 3, 32), 'bfloat16'),
    ((1, 1001, 5, 72), 'bfloat16'),
    ((1, 77, 2, 128), 'float32'),
  ],
  ids=str,
)
def test_kernels_compile(topology, shape, dtype):
  mesh = topologies.tpu_mesh(topology, {'data': 1})
  program = compiled(mesh, shape, dtype)
  assert calls(program) == TRAINING


@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_kernels_compile_on_a_mesh_and_sum_nothing_but_states(topology):
  mesh = topologies.tpu_mesh(topology, {'data': 2, 'sequence': 2})
  program = compiled(mesh, (4, 4096, 36, 32), 'bfloat16')
  assert calls(program) == TRAINING
  text = program.as_text()
  assert 'all-gather' not in text and 'all-to-all' not in text
  # Of two images on each chip: S and z of 9 groups of 128 lanes.
  state = {'f32[2,9,32,128]', 'f32[2,9,1,128]'}
  reduced = re.findall(r'= (.*) all-reduce(?:-start)?\(', text)
  assert set(re.findall(r'\w+\[[\d,]+\]', ' '.join(reduced))) == state


def test_prediction_runs_two_kernels():
  mesh = topologies.tpu_mesh('v6e:2x2', {'data': 1})
  program = compiled(mesh, (2, 1024, 70, 32), 'bfloat16', training=False)
  assert calls(program) == FORWARD


def test_kernels_keep_nothing_that_is_as_long_as_the_sequence():
  mesh = topologies.tpu_mesh('v6e:2x2', {'data': 1})
  shape = (16, 16384, 70, 32)
  of = lambda name: temporaries(
    compiled(mesh, shape, 'bfloat16', implementation=name)
  )
  # S and z of 18 groups of 128 lanes. Older compilers keep them where gradients
  # will be, the newest do not.
  states = 16 * 18 * (32 + 1) * 128 * 4
  assert of('mosaic_tpu') < states + 2**20 < 2**30 < of('xla')


def test_vmap_and_scan_compile():
  mesh = topologies.tpu_mesh('v6e:2x2', {'data': 1})
  shape = (2, 256, 36, 32)
  f = functools.partial(relu_linear_attention, implementation='mosaic_tpu')

  def loss(q):
    layer = jax.checkpoint(lambda q, _: (q + jax.vmap(f)(q, q, q), None))
    return jnp.sum(jax.lax.scan(layer, q, length=3)[0].astype(jnp.float32))

  x = jax.ShapeDtypeStruct(
    (2, *shape), jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P())
  )
  with dispatch.platform('tpu'):
    program = jax.jit(jax.grad(loss)).lower(x).compile()
  found = calls(program)
  assert found['read'] >= 1 and found['read_backward'] == 1
