"""The gate's TPU kernels pass the TPU compiler (libtpu), for each chip."""

import functools
import importlib.util
import pathlib
import re

import jax
from jax.experimental.layout import Format, Layout
import jax.numpy as jnp
import pytest

from sana_jax.kernels import dispatch, glumb_conv, UnsupportedError

_spec = importlib.util.spec_from_file_location(
  'topologies', pathlib.Path(__file__).with_name('topologies.py')
)
topologies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(topologies)

pytestmark = [
  pytest.mark.tpu_compiler,
  # What is kept between runs of the suite cannot be read without the chip.
  pytest.mark.filterwarnings('ignore:Error reading persistent compilation'),
]
TOPOLOGIES = ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1']
# 0.6B and 1.6B at 1024 px, 4096 px, and a bucket of an odd aspect.
SHAPES = [
  (16, 32, 32, 5760),
  (16, 32, 32, 11200),
  (1, 128, 128, 11200),
  (2, 27, 37, 11200),
]


def compiled(mesh, shape, dtype, spec=None):
  """The gate of x [b y x 2c] and its gradients."""
  b, y, x, channels = shape

  def run(dout, *args):
    out, back = jax.vjp(
      functools.partial(glumb_conv, implementation='mosaic_tpu'), *args
    )
    return out, *back(dout)

  def array(*shape, spec=None):
    # Row by row; else XLA chooses how the arguments lie, and copies them.
    rows = Format(
      Layout(tuple(range(len(shape)))), jax.NamedSharding(mesh, spec or jax.P())
    )
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

  args = (
    array(b, y, x, channels // 2, spec=spec),
    array(*shape, spec=spec),
    array(3, 3, channels),
    array(channels),
  )
  with dispatch.platform('tpu'), jax.set_mesh(mesh):
    return (
      jax.jit(run, out_shardings=tuple(a.format for a in args))
      .lower(*args)
      .compile()
    )


def calls(program):
  return sorted(
    re.search(r'%(glumb_conv\w*)', line)[1]
    for line in program.as_text().splitlines()
    if '"tpu_custom_call"' in line
  )


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_it_compiles_and_keeps_nothing_as_large_as_the_picture(
  topology, shape, dtype
):
  mesh = topologies.tpu_mesh(topology, {'data': 1})
  if shape[2] * jnp.dtype(dtype).itemsize == 512 and topology in (
    'v5p:2x2x1',
    'tpu7x:2x2x1',
  ):  # They have half as much VMEM.
    with pytest.raises(UnsupportedError, match='MiB of VMEM'):
      compiled(mesh, shape, dtype)
    return
  program = compiled(mesh, shape, dtype)
  assert calls(program) == ['glumb_conv', 'glumb_conv_backward']
  # Sums of weights' gradients, one for each picture; their total; the weights.
  # Older compilers keep the last two where results will be, the newest do not.
  weights = (shape[0] + 2) * 2 * 16 * (shape[3] // 2 + 128) * 4
  assert program.memory_analysis().temp_size_in_bytes < 1.2 * weights + 2**20


@pytest.mark.parametrize(
  'shape, spec, count',
  [
    ({'data': 2, 'fsdp': 2}, jax.P(('data', 'fsdp')), 0),
    # Rows of x forward, of x and of dout backward; above and below.
    ({'data': 2, 'sequence': 2}, jax.P('data', 'sequence'), 6),
  ],
  ids=str,
)
def test_on_a_mesh_neighbouring_rows_are_all_that_moves(shape, spec, count):
  mesh = topologies.tpu_mesh('v5p:2x2x1', shape)
  text = compiled(mesh, SHAPES[1], jnp.bfloat16, spec).as_text()
  assert not re.search(r' all-(gather|to-all)(-start)?\(', text)
  assert len(re.findall(r' collective-permute(?:-start)?\(', text)) == count
