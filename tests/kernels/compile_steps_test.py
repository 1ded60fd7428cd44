"""The whole train step and the whole sampler with kernels, compiled for chips.

Counts are of calls in the program: the loop over blocks is there once forward
and once backward, where remat runs the forward pass again.
"""

import importlib.util
import pathlib

import pytest

from sana_jax import kernels, recipes
from sana_jax.analysis import collectives, hlo, work
from sana_jax.analysis import topologies as absent
from sana_jax.tools.bench import compiled
from sana_jax.tools.bench.ops import compiled as ops_compiled
from sana_jax.tools.bench.ops.cases import Case
from sana_jax.tools.bench.request import request as sampling_request
from sana_jax.tools.plan import steps

_spec = importlib.util.spec_from_file_location(
  'topologies', pathlib.Path(__file__).with_name('topologies.py')
)
topologies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(topologies)

pytestmark = pytest.mark.tpu_compiler
TOPOLOGIES = ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1']
CHOSEN = dict.fromkeys(kernels.OPS, 'mosaic_tpu')
FORWARD = {
  'relu_linear_attention_state': 1,
  'relu_linear_attention_read': 1,
  'glumb_conv': 1,
}
TRAINING = {name: 2 * n for name, n in FORWARD.items()} | {
  'relu_linear_attention_read_backward': 1,
  'relu_linear_attention_state_backward': 1,
  'glumb_conv_backward': 1,
}
GIB = 2**30


@pytest.fixture(autouse=True, scope='module')
def uncached():
  with topologies.uncached():
    yield


def step(topology, shape, batch, chosen, model='sana_600m_512'):
  """The compiled train step."""
  mesh = topologies.tpu_mesh(topology, shape)
  config = recipes.published(model)
  config.batch_size = batch
  with kernels.prefer(**chosen):
    return absent.compile_for(
      'tpu', mesh, lambda: steps.make(config, mesh).lower()
    )


def names(program):
  """How often a program calls each kernel."""
  return work.kernel_names(hlo.parse(program.as_text()))


@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_the_train_step_runs_each_kernel_once_a_pass(topology):
  program = step(topology, {'data': 1}, 4, CHOSEN)
  assert names(program) == TRAINING


@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_the_sampler_runs_each_kernel_once_a_block(topology):
  mesh = topologies.tpu_mesh(topology, {'data': 1})
  request = sampling_request(
    'sana_600m_1024', 1024, batch=2, dtype='bfloat16', kernels=CHOSEN
  )
  found = compiled.compile_stage('denoise', request, mesh, 'tpu')
  # dpm++2m evaluates the model once in its loop; the first step is in it.
  assert found.kernel_names == FORWARD


def test_the_1600m_at_1024_px_fits_with_16_images_a_chip_of_a_pod():
  programs = {
    name: step('v5p:4x4x4', {'fsdp': 64}, 64 * 16, chosen, 'sana_1600m_1024')
    for name, chosen in (('kernels', CHOSEN), ('xla', {}))
  }
  assert names(programs['kernels']) == TRAINING
  assert names(programs['xla']) == {}
  memory = {
    name: program.memory_analysis().temp_size_in_bytes / GIB
    for name, program in programs.items()
  }
  assert memory['kernels'] < memory['xla'] < 16
  # The mesh is the same, and so is the communication.
  kernel, xla = (
    collectives.count(hlo.parse(programs[name].as_text()))
    for name in ('kernels', 'xla')
  )
  assert kernel == xla


@pytest.mark.parametrize('shape, count', [({'data': 1}, 0), ({'data': 2}, 1)])
def test_the_benchmark_compiles_a_case(shape, count):
  mesh = topologies.tpu_mesh('v5e:2x2', shape)
  case = Case('glumb_conv', (4, 64, 64, 4096), 'bfloat16')
  record = ops_compiled.compile_case(case, True, 'mosaic_tpu', mesh, 'tpu')
  assert (record.problem, record.kernels, record.cycles) == ('', 2, None)
  # Weights' gradients are summed over the batch.
  assert record.collectives.get('all-reduce', 0) == count
  plain = ops_compiled.compile_case(case, True, 'xla', mesh, 'tpu')
  assert plain.kernels == 0 and plain.cycles > 0
  assert record.temporary < plain.temporary and record.moved < plain.moved
  refused = ops_compiled.compile_case(case, True, 'mosaic_gpu', mesh, 'tpu')
  assert 'compute capability 9.0' in refused.problem
