"""The convolutions of DC-AE's residual block, and their TPU kernel."""

import functools
import itertools
import math

import jax
from jax._src.pallas.mosaic.interpret import (
  interpret_pallas_call as interpreter,
)
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import kernels
from sana_jax.kernels import (
  conv3x3_norm,
  conv3x3_silu,
  dispatch,
  UnsupportedError,
)
from sana_jax.sharding.mesh import make_mesh

OPS = [conv3x3_silu, conv3x3_norm]
# Memory holds NaN until it is written.
CHECKED = pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan')


@pytest.fixture(params=OPS, ids=lambda op: op.name)
def op(request):
  return request.param


def kernel_of(op, interpret=CHECKED, **sizes):
  return functools.partial(
    op, implementation='mosaic_tpu', interpret=interpret, **sizes
  )


def normal(*shape, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng().normal(size=shape), dtype)


def inputs(op, b, y, x, c, o, dtype=jnp.float32):
  """Arguments of the op, and a cotangent; kernels preserve the variance."""
  kernel = normal(3, 3, c, o) / math.sqrt(9 * c)
  common = normal(b, y, x, c, dtype=dtype), kernel.astype(dtype)
  dout = normal(b, y, x, o, dtype=dtype)
  if op is conv3x3_silu:
    return (*common, normal(o, dtype=dtype)), dout
  return (*common, normal(o), normal(o), normal(b, y, x, o, dtype=dtype)), dout


def by_hand(op, x, kernel, *rest):
  """The definition in float64, tap by tap."""
  x, kernel, *rest = (np.asarray(a, np.float64) for a in (x, kernel, *rest))
  height, width = x.shape[1:3]
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y = sum(
    x[:, i : i + height, j : j + width] @ kernel[i, j]
    for i, j in itertools.product(range(3), range(3))
  )
  if op is conv3x3_silu:
    y += rest[0]
    return y / (1 + np.exp(-y))
  scale, shift, residual = rest
  rms = np.sqrt(np.mean(y**2, axis=-1, keepdims=True) + 1e-5)
  return residual + y / rms * scale + shift


def relative_error(got, want):
  got, want = (np.asarray(a, np.float64) for a in (got, want))
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(f, cotangent, *args):
  """f(*args) and its gradients, compiled as one."""
  out, back = jax.vjp(f, *args)
  return out, *back(cotangent)


@pytest.mark.parametrize(
  'dtype, bound', [('float32', 1e-6), ('bfloat16', 2e-2)]
)
def test_the_definition_is_the_sum_over_taps(op, dtype, bound):
  args, _ = inputs(op, 2, 5, 4, 6, 7, dtype)
  got = jax.jit(op)(*args)
  assert got.dtype == dtype
  assert relative_error(got, by_hand(op, *args)) <= bound


# Registers hold 8 or 16 pixels, and 256 or more are computed at once: three
# rows at a time, one row, one column, whole registers, and several tiles.
@pytest.mark.parametrize(
  'shape, dtype, bound, group',
  [
    ((2, 5, 70, 128, 128), 'float32', 1e-5, 2),
    ((1, 1, 100, 128, 256), 'bfloat16', 2e-2, 1),
    ((1, 3, 1, 128, 128), 'float32', 1e-5, 1),
    *(
      pytest.param(shape, *how, marks=pytest.mark.slow)
      for shape in ((1, 4, 128, 256, 128), (1, 7, 130, 128, 128))
      for how in (('float32', 1e-5, 1), ('bfloat16', 2e-2, 2))
    ),
  ],
  ids=str,
)
def test_the_kernel_gives_the_definition(op, shape, dtype, bound, group):
  args, _ = inputs(op, *shape, dtype)
  got = kernel_of(op, rows=2, group=group)(*args)
  assert got.dtype == dtype
  assert relative_error(got, by_hand(op, *args)) <= bound
  assert not interpreter.races.races_found


@pytest.mark.long
def test_gradients_of_the_kernel_are_those_of_the_definition(op):
  args, dout = inputs(op, 2, 8, 18, 128, 128)
  for got, want in zip(
    with_gradients(kernel_of(op, True), dout, *args),
    with_gradients(op, dout, *args),
  ):
    assert got.dtype == want.dtype
    assert relative_error(got, want) <= 1e-5


# None splits rows and has an axis that splits nothing: there XLA itself makes
# the weights' gradient twice as large as it is (jax 0.10.2), also of lax.conv.
@pytest.mark.parametrize(
  'op, shape',
  [
    (conv3x3_silu, {'sequence': 8}),
    (conv3x3_silu, {'tensor': 2}),
    (conv3x3_norm, {'data': 2}),
    (conv3x3_norm, {'fsdp': 2, 'sequence': 4}),
  ],
  ids=lambda x: getattr(x, 'name', str(x)),
)
def test_a_mesh_gives_the_same(op, shape):
  args, dout = inputs(op, 2, 8, 18, 128, 128)
  want = with_gradients(op, dout, *args)
  mesh = make_mesh(shape, jax.devices()[: math.prod(shape.values())])
  batch = next((a for a in ('data', 'fsdp') if a in shape), None)
  spec = jax.P(batch, 'sequence' if 'sequence' in shape else None)
  split = lambda a: jax.device_put(
    a,
    jax.NamedSharding(
      mesh, spec if a.ndim == 4 and a.shape[0] == 2 else jax.P()
    ),
  )
  with jax.set_mesh(mesh):
    got = with_gradients(
      kernel_of(op, True), split(dout), *(split(a) for a in args)
    )
  assert got[0].sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), 4)
  for a, b in zip(got, want):
    assert relative_error(a, np.asarray(b)) <= 1e-5


@pytest.mark.long
def test_the_kernel_works_inside_scan_and_remat():
  op = conv3x3_norm
  args, _ = inputs(op, 1, 3, 18, 128, 128)

  def loss(f, x, *rest):
    step = jax.checkpoint(lambda x, _: (f(x, *rest), None))
    return jnp.sum(jnp.sin(jax.lax.scan(step, x, length=2)[0]))

  got, want = (
    jax.jit(jax.grad(functools.partial(loss, f)))(*args)
    for f in (kernel_of(op, True), op)
  )
  assert relative_error(got, want) <= 1e-5


def shapes(op, b, y, x, c, dtype):
  picture, vector = (b, y, x, c), (c,)
  rest = (vector,) if op is conv3x3_silu else (vector, vector, picture)
  return [
    jax.ShapeDtypeStruct(shape, dtype)
    for shape in (picture, (3, 3, c, c), *rest)
  ]


@pytest.mark.parametrize(
  'shape, dtype, why',
  [
    ((1, 4, 4, 128), jnp.float16, 'float16 .*bfloat16 .*float32'),
    ((1, 4, 4, 96), jnp.float32, '96 .*128'),
    (
      (1, 8, 8192, 256),
      jnp.float32,
      '8192 x 256 float32 .* MiB',
    ),
    ((1, 8, 8, 2048), jnp.float32, '8 x 2048 float32 .* MiB'),
  ],
)
def test_unsupported_calls_raise_before_tracing(op, shape, dtype, why):
  run = functools.partial(op, implementation='mosaic_tpu')
  args = shapes(op, *shape, dtype)
  with dispatch.platform('tpu'), pytest.raises(UnsupportedError, match=why):
    jax.eval_shape(run, *args)
  with pytest.raises(UnsupportedError, match='cpu'):
    jax.eval_shape(run, *args)


def test_a_wider_residual_is_left_to_xla():
  *args, residual = shapes(conv3x3_norm, 1, 4, 4, 128, jnp.bfloat16)
  residual = jax.ShapeDtypeStruct(residual.shape, jnp.float32)
  assert jax.eval_shape(conv3x3_norm, *args, residual).dtype == jnp.float32
  with pytest.raises(UnsupportedError, match='bfloat16.*float32'):
    jax.eval_shape(kernel_of(conv3x3_norm), *args, residual)


def test_both_are_chosen_by_name():
  args = shapes(conv3x3_silu, 1, 4, 4, 128, jnp.bfloat16)
  with (
    kernels.prefer(conv3x3_silu='mosaic_tpu'),
    pytest.raises(UnsupportedError),
  ):
    jax.eval_shape(conv3x3_silu, *args)
