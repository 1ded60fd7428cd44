"""Kernels compile for an absent H200, down to machine code.

XLA's compiler and NVIDIA's `ptxas` run on any machine; nothing is executed.
"""

import pathlib

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import pytest

from sana_jax import kernels as kernels_of
from sana_jax import recipes
from sana_jax.analysis import hlo, work
from sana_jax.analysis import topologies as topologies_of
from sana_jax.kernels import dispatch, relu_linear_attention
from sana_jax.kernels.glumb_conv import mosaic_gpu as gate
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.bench import compiled as step
from sana_jax.tools.bench.request import request
from sana_jax.tools.plan import steps

pytestmark = pytest.mark.gpu_compiler
H200 = pathlib.Path(topologies_of.__file__).with_name('h200.txtpb')
# SANA's two widths at 512 to 4096 px, alone and in a batch; then what buckets
# and tensor parallelism leave over.
SHAPES = [
  (b, n, h, 32)
  for b in (1, 16)
  for n in (256, 1024, 4096, 16384)
  for h in (36, 70)
] + [(1, 1030, 35, 32), (1, 1, 3, 32), (2, 63, 3, 64), (2, 1030, 2, 128)]
PICTURES = [
  (b, size, size, c2)
  for b in (1, 16)
  for size in (16, 32, 64, 128)
  for c2 in (5760, 11200)
] + [(2, 22, 46, 11200)]


@pytest.fixture(autouse=True, scope='module')
def no_cache():
  """Disables the cache: programs for absent chips cannot be loaded from it."""
  for enabled in (False, True):
    jax.config.update('jax_enable_compilation_cache', enabled)
    compilation_cache.reset_cache()
    if not enabled:
      yield


def gpus(count):
  return topologies.get_topology_desc(
    '', 'cuda', target_config=H200.read_text(), topology=f'1x1x{count}'
  ).devices


def compiled(shape, sharding):
  """Attention and its gradient."""

  def run(dout, *qkv):
    out, back = jax.vjp(
      lambda *x: relu_linear_attention(*x, implementation='mosaic_gpu'), *qkv
    )
    return out, *back(dout)

  x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)
  with dispatch.platform('gpu'):
    return jax.jit(run).lower(*[x] * 4).compile()


def kernels(program):
  names = 'state', 'read', 'read_backward', 'state_backward'
  return [
    name
    for name in names
    if f'/relu_linear_attention_{name}/' in program.as_text()
  ]


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_attention_compiles(shape):
  program = compiled(shape, jax.sharding.SingleDeviceSharding(gpus(1)[0]))
  assert len(kernels(program)) == 4
  if shape[1] >= 4096:
    memory = program.memory_analysis()
    # States only: nothing else of a sequence is ever stored.
    assert memory.temp_size_in_bytes < memory.argument_size_in_bytes / 70


def test_attention_compiles_on_a_mesh():
  mesh = make_mesh({'data': 2, 'tensor': 2, 'sequence': 2}, gpus(8))
  with jax.set_mesh(mesh):
    program = compiled(
      (2, 4096, 70, 32),
      jax.NamedSharding(mesh, jax.P('data', 'sequence', 'tensor')),
    )
  assert len(kernels(program)) == 4
  # Devices exchange only the states' sums.
  assert 'all-gather' not in program.as_text()
  assert 'all-reduce' in program.as_text()


@pytest.mark.parametrize('shape', PICTURES, ids=str)
def test_the_gate_compiles(shape):
  sharding = jax.sharding.SingleDeviceSharding(gpus(1)[0])
  x, kernel, bias, dout = (
    jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=sharding)
    for s in (
      shape,
      (3, 3, shape[-1]),
      shape[-1:],
      (*shape[:3], shape[-1] // 2),
    )
  )

  def run(x, kernel, bias, dout):
    return (gate.forward(x, kernel, bias), gate.backward(x, kernel, bias, dout))

  with dispatch.platform('gpu'):
    program = jax.jit(run).lower(x, kernel, bias, dout).compile()
  for name in ('forward', 'backward'):
    assert f'/glumb_conv_{name}/' in program.as_text()
  # Nothing as large as a picture: taps, and their gradients of each tile.
  memory = program.memory_analysis()
  if shape[1] >= 32:
    assert memory.temp_size_in_bytes < memory.argument_size_in_bytes / 7


CHOSEN = {'relu_linear_attention': 'mosaic_gpu', 'glumb_conv': 'mosaic_gpu'}
FORWARD = {
  'relu_linear_attention_state': 1,
  'relu_linear_attention_read': 1,
  'glumb_conv_forward': 1,
}


def test_the_train_step_runs_each_kernel_once_a_pass():
  mesh = make_mesh({'fsdp': 8}, gpus(8))
  config = recipes.published('sana_1600m_1024')
  config.batch_size = 16 * 8
  with kernels_of.prefer(**CHOSEN):
    program = topologies_of.compile_for(
      'gpu', mesh, lambda: steps.make(config, mesh).lower()
    )
  # Remat runs the forward pass again.
  assert work.kernel_names(hlo.parse(program.as_text())) == {
    name: 2 * n for name, n in FORWARD.items()
  } | {
    'relu_linear_attention_read_backward': 1,
    'relu_linear_attention_state_backward': 1,
    'glumb_conv_backward': 1,
  }


def test_the_sampler_runs_each_kernel_once_a_block():
  wanted = request(
    'sana_600m_1024', 1024, batch=2, dtype='bfloat16', kernels=CHOSEN
  )
  found = step.compile_stage('denoise', wanted, make_mesh({}, gpus(1)), 'gpu')
  assert found.kernel_names == FORWARD
