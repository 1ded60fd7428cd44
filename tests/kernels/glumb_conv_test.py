"""The gated depthwise convolution against XLA's grouped convolution."""

import functools
import math

import jax
from jax._src.pallas.mosaic.interpret import (
  interpret_pallas_call as interpreter,
)
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.kernels import (
  depthwise_conv,
  dispatch,
  glumb_conv,
  UnsupportedError,
)
from sana_jax.sharding.mesh import make_mesh

# Backends that run on a CPU, some of them interpreted: with tiles of two rows,
# and memory that holds NaN until it is written.
BACKENDS = {
  'xla': {},
  'xla_jvp': {},
  'mosaic_tpu': {
    'rows': 2,
    'interpret': pltpu.InterpretParams(
      detect_races=True, uninitialized_memory='nan'
    ),
  },
}


@pytest.fixture(params=BACKENDS)
def op(request):
  yield backend(request.param)
  if request.param == 'mosaic_tpu':
    assert not interpreter.races.races_found


@functools.cache
def backend(name, interpret=None):
  """Always the same object, so that JAX traces it once for each shape.

  With interpret=True, plain JAX interprets it: for meshes and scans.
  """
  f = functools.partial(glumb_conv, implementation=name, **BACKENDS[name])
  return functools.partial(f, interpret=interpret) if interpret else f


def grouped(x, kernel):
  """lax's convolution with one group a channel."""
  return jax.lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    (1, 1),
    'SAME',
    feature_group_count=x.shape[-1],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def by_hand(x, kernel, bias):
  """The definition in float64, position by position."""
  x, kernel, bias = (np.asarray(a, np.float64) for a in (x, kernel, bias))
  silu = lambda a: a / (1 + np.exp(-a))
  x, (height, width) = silu(x), x.shape[1:3]
  out = np.zeros_like(x) + bias
  for y, z, i, j in np.ndindex(height, width, 3, 3):
    if 0 <= y + i - 1 < height and 0 <= z + j - 1 < width:
      out[:, y, z] += x[:, y + i - 1, z + j - 1] * kernel[i, j]
  value, gate = np.split(out, 2, axis=-1)
  return value * silu(gate)


def normal(*shape, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng().normal(size=shape), dtype)


def relative_error(got, want):
  got, want = (np.asarray(a, np.float64) for a in (got, want))
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(f, cotangent, *args):
  """f(*args) and its gradients, compiled as one."""
  out, back = jax.vjp(f, *args)
  return out, *back(cotangent.astype(out.dtype))


@pytest.mark.parametrize('size', [1, 3, 5])
def test_the_convolution_and_its_gradients_are_those_of_lax(size):
  args = normal(2, 4, 6, 5), normal(size, size, 5)
  cotangent = normal(2, 4, 6, 5)
  for got, want in zip(
    with_gradients(depthwise_conv, cotangent, *args),
    with_gradients(grouped, cotangent, *args),
  ):
    assert relative_error(got, want) <= 1e-6


def test_a_kernel_larger_than_the_image():
  x, kernel = normal(1, 1, 2, 3), normal(5, 5, 3)
  assert (
    relative_error(jax.jit(depthwise_conv)(x, kernel), grouped(x, kernel))
    <= 1e-6
  )


def test_the_gate_is_its_definition():
  x, kernel, bias = normal(2, 5, 4, 6), normal(3, 3, 6), normal(6)
  got = jax.jit(glumb_conv)(x, kernel, bias)
  assert got.shape == (2, 5, 4, 3)
  assert relative_error(got, by_hand(x, kernel, bias)) <= 1e-6


@pytest.mark.parametrize('name', ['xla', 'xla_jvp'])
def test_tangents_are_those_of_the_definition(name):
  args = normal(1, 3, 4, 6), normal(3, 3, 6), normal(6)
  tangents = normal(1, 3, 4, 6), normal(3, 3, 6), normal(6)
  op = functools.partial(glumb_conv, implementation=name)
  got = jax.jit(functools.partial(jax.jvp, op))(args, tangents)[1]
  step = 1e-4
  sides = [
    by_hand(
      *(
        np.asarray(a, np.float64) + s * np.asarray(t, np.float64)
        for a, t in zip(args, tangents)
      )
    )
    for s in (step, -step)
  ]
  assert relative_error(got, (sides[0] - sides[1]) / (2 * step)) <= 1e-5


def test_constant_parameters_have_no_tangent():
  args = normal(1, 3, 4, 6), normal(3, 3, 6), normal(6)
  tangent = normal(1, 3, 4, 6)
  zeros = [jnp.zeros_like(a) for a in args[1:]]

  @jax.jit
  def tangents(x, *rest):
    alone = jax.jvp(lambda x: glumb_conv(x, *rest), (x,), (tangent,))[1]
    return alone, jax.jvp(glumb_conv, (x, *rest), (tangent, *zeros))[1]

  alone, whole = tangents(*args)
  assert relative_error(alone, whole) <= 1e-6


def test_gradients_of_each_example_are_those_of_the_example_alone():
  x, kernel, bias = normal(2, 3, 4, 6), normal(3, 3, 6), normal(6)
  grad = jax.grad(lambda k, x: jnp.sum(glumb_conv(x, k, bias) ** 2))
  got = jax.jit(jax.vmap(grad, (None, 0)))(kernel, x[:, None])
  for i in range(2):
    alone = jax.jit(grad)(kernel, x[i : i + 1])
    assert relative_error(got[i], alone) <= 1e-6


def test_the_backward_pass_keeps_the_inputs_alone():
  args = normal(1, 4, 4, 6), normal(3, 3, 6), normal(6)
  kept = jax.tree.leaves(
    jax.eval_shape(
      lambda *args: jax.vjp(glumb_conv, *args)[1],
      *(a.astype(jnp.bfloat16) for a in args),
    )
  )
  assert {x.dtype for x in kept if x.ndim == 4} == {jnp.dtype(jnp.bfloat16)}
  assert len([x for x in kept if x.ndim == 4]) <= 6


def test_gradients_of_the_gate_are_those_through_lax():
  def plain(x, kernel, bias):
    value, gate = jnp.split(grouped(jax.nn.silu(x), kernel) + bias, 2, axis=-1)
    return value * jax.nn.silu(gate)

  args = normal(2, 5, 4, 6), normal(3, 3, 6), normal(6)
  cotangent = normal(2, 5, 4, 3)
  for got, want in zip(
    with_gradients(glumb_conv, cotangent, *args),
    with_gradients(plain, cotangent, *args),
  ):
    assert relative_error(got, want) <= 2e-6


def test_bfloat16_stays_near_float32_and_keeps_its_dtype():
  half = jnp.bfloat16
  args = (
    normal(2, 6, 6, 8, dtype=half),
    normal(3, 3, 8, dtype=half),
    normal(8, dtype=half),
  )
  full = [a.astype(jnp.float32) for a in args]
  cotangent = normal(2, 6, 6, 4, dtype=half)
  for got, want in zip(
    with_gradients(glumb_conv, cotangent, *args),
    with_gradients(glumb_conv, cotangent, *full),
  ):
    assert got.dtype == half
    assert relative_error(got, want) <= 2e-2


def test_a_float32_kernel_does_not_widen_bfloat16():
  x, kernel = normal(1, 3, 3, 2, dtype=jnp.bfloat16), normal(3, 3, 2)
  got = with_gradients(depthwise_conv, x, x, kernel)
  assert [g.dtype for g in got] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]


def inputs(b, y, x, c, dtype=jnp.float32):
  """(x, kernel, bias) and a cotangent, of c channels after the gate."""
  return (
    normal(b, y, x, 2 * c, dtype=dtype),
    normal(3, 3, 2 * c, dtype=dtype),
    normal(2 * c, dtype=dtype),
  ), (normal(b, y, x, c, dtype=dtype))


def definition(args, cotangent):
  """Output and gradients of the definition in float32."""
  return with_gradients(
    glumb_conv, cotangent, *(a.astype(jnp.float32) for a in args)
  )


# Lanes are 128, sublanes 8 or 16, and strips of columns 32 wide.
@pytest.mark.parametrize(
  'shape, dtype, bound',
  [
    ((1, 3, 37, 160), 'bfloat16', 2e-2),
    ((2, 3, 1, 6), 'float32', 1e-5),
    pytest.param((1, 4, 16, 128), 'float32', 1e-5, marks=pytest.mark.slow),
    pytest.param((1, 4, 16, 128), 'bfloat16', 2e-2, marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_backends_give_outputs_and_gradients_of_the_definition(
  op, shape, dtype, bound
):
  args, cotangent = inputs(*shape, dtype)
  got = with_gradients(op, cotangent, *args)
  for a, b, like in zip(got, definition(args, cotangent), (args[0], *args)):
    assert a.dtype == like.dtype
    assert relative_error(a, b) <= bound


def test_backends_survive_inputs_where_the_gates_saturate(op):
  (x, kernel, bias), cotangent = inputs(2, 3, 1, 6)
  got = with_gradients(op, cotangent, 1000 * x, kernel, bias)
  for a, b in zip(got, definition((1000 * x, kernel, bias), cotangent)):
    assert relative_error(a, b) <= 1e-5


SPLIT = {'fsdp': 2, 'tensor': 2, 'sequence': 2}


@pytest.mark.parametrize(
  'name, shape',
  [
    ('xla', {'data': 2}),
    ('xla', SPLIT),
    ('xla_jvp', SPLIT),
    ('mosaic_tpu', SPLIT),
  ],
  ids=str,
)
def test_backends_give_the_same_on_a_mesh(name, shape):
  args, cotangent = inputs(2, 4, 3, 4)
  want = with_gradients(glumb_conv, cotangent, *args)
  mesh = make_mesh(shape, jax.devices()[: math.prod(shape.values())])
  batch, rows = (a if a in shape else None for a in ('data', 'sequence'))
  spec = jax.P(
    'fsdp' if 'fsdp' in shape else batch,
    rows,
    None,
    'tensor' if 'tensor' in shape else None,
  )
  with jax.set_mesh(mesh):
    split = lambda a: jax.device_put(a, jax.NamedSharding(mesh, spec))
    x, cotangent = split(args[0]), split(cotangent)
    got = with_gradients(backend(name, True), cotangent, x, *args[1:])
  for a, b in zip(got, want):
    assert relative_error(a, np.asarray(b)) <= 1e-5


@pytest.mark.long
def test_one_row_a_device_is_not_split_further():
  args, cotangent = inputs(2, 4, 3, 4)
  want = with_gradients(glumb_conv, cotangent, *args)
  with jax.set_mesh(make_mesh({'sequence': 4}, jax.devices()[:4])):
    got = with_gradients(backend('mosaic_tpu', True), cotangent, *args)
  for a, b in zip(got, want):
    assert relative_error(a, np.asarray(b)) <= 1e-5


@pytest.mark.long
def test_kernels_work_inside_scan_remat_and_vmap():
  def loss(f, xs, kernel, bias):
    step = jax.checkpoint(
      lambda total, x: (
        total + jnp.sum(jnp.sin(jax.vmap(f, (0, None, None))(x, kernel, bias))),
        None,
      )
    )
    return jax.lax.scan(step, 0.0, xs)[0]

  args = normal(2, 2, 1, 3, 3, 6), normal(3, 3, 6), normal(6)
  got, want = (
    jax.jit(jax.grad(functools.partial(loss, f), (0, 1, 2)))(*args)
    for f in (backend('mosaic_tpu', True), glumb_conv)
  )
  for a, b in zip(got, want):
    assert relative_error(a, b) <= 1e-5


def test_unsupported_calls_raise_before_tracing():
  op = functools.partial(glumb_conv, implementation='mosaic_tpu')
  for shape, dtype, why in [
    ((1, 2, 2, 4), jnp.float16, 'float16 .*bfloat16 .*float32'),
    (
      (1, 2, 512, 11200),
      jnp.float32,
      '512 x 11200 float32 .* MiB',
    ),
  ]:
    args = [
      jax.ShapeDtypeStruct(s, dtype)
      for s in (shape, (3, 3, shape[-1]), shape[-1:])
    ]
    with dispatch.platform('tpu'), pytest.raises(UnsupportedError, match=why):
      jax.eval_shape(op, *args)
  with pytest.raises(UnsupportedError, match='cpu'):
    jax.eval_shape(op, *args)
