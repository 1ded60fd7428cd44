"""ReLU linear attention against the equivalent sum over pairs."""

import functools
import math

import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.kernels import dispatch, relu_linear_attention
from sana_jax.sharding.mesh import make_mesh


def by_pairs(q, k, v, eps):
  """Quadratic in tokens, in float64: weights relu(q) . relu(k), normalised."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out = np.zeros_like(v)
  for b, h in np.ndindex(q.shape[0], q.shape[2]):
    weights = np.maximum(q[b, :, h], 0) @ np.maximum(k[b, :, h], 0).T
    total = weights.sum(1, keepdims=True) + eps
    out[b, :, h] = weights @ v[b, :, h] / total
  return out


def inputs(shape=(2, 7, 3, 4), dtype=np.float32):
  rng = np.random.default_rng()
  return [jnp.asarray(rng.normal(size=shape), dtype) for _ in 'qkv']


# Backends that run on a CPU, some of them interpreted.
# What a TPU kernel reads beyond its arrays, or has not written, is NaN.
BACKENDS = {
  'mosaic_gpu': {'interpret': True},
  'mosaic_tpu': {'interpret': pltpu.InterpretParams(detect_races=True)},
  'xla': {},
  'xla_chunked': {},
}
# Several tiles, the last in part; one token; heads that fill a group in part,
# or no lanes. Tensor cores multiply bfloat16.
CASES = {
  'mosaic_gpu': [
    ('bfloat16', (1, 265, 3, 32)),
    ('bfloat16', (2, 1, 1, 64)),
    ('bfloat16', (2, 9, 1, 128)),
  ],
  'mosaic_tpu': [
    ('bfloat16', (2, 1030, 3, 64)),
    ('float32', (2, 530, 2, 72)),
  ],
  'xla': [('bfloat16', (2, 1030, 3, 64)), ('float32', (1, 1, 5, 32))],
  'xla_chunked': [
    ('bfloat16', (2, 1030, 3, 64)),
    ('float32', (2, 1030, 3, 64)),
    ('float32', (1, 1, 5, 32)),
  ],
}
# JAX's interpreter of Mosaic GPU supports one device, and no transformation.
EVERYWHERE = [name for name in BACKENDS if name != 'mosaic_gpu']
everywhere = pytest.mark.parametrize('op', EVERYWHERE, indirect=True)


@functools.cache
def backend(name):
  """Always the same object, so that JAX traces it once for each shape."""
  return functools.partial(
    relu_linear_attention, implementation=name, **BACKENDS[name]
  )


@pytest.fixture
def op(request, capsys):
  yield backend(request.param)
  assert 'RACE DETECTED' not in capsys.readouterr().out


@pytest.fixture
def pure(op):
  """The op without the callbacks of an interpreter that looks for races.

  JAX rejects callbacks in remat; those of eight devices deadlock on two cores.
  """
  return functools.partial(op, interpret=bool(op.keywords.get('interpret')))


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(f, qkv, dout):
  """f(q, k, v) and its gradients, compiled as one."""
  out, back = jax.vjp(f, *qkv)
  return out, *back(dout.astype(out.dtype))


def relative_error(got, want):
  got = np.asarray(got, np.float64)
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize('eps', [1e-15, 1e-8, 1.0])
def test_it_is_the_sum_over_pairs(eps):
  qkv = inputs()
  got = relu_linear_attention(*qkv, eps=eps)
  assert relative_error(got, by_pairs(*qkv, eps)) <= 1e-6


def test_gradients_are_those_of_the_sum_over_pairs():
  qkv = inputs((1, 5, 2, 3))
  loss = lambda *x: jnp.sum(jnp.sin(3 * relu_linear_attention(*x, eps=0.1)))
  got = jax.jit(jax.grad(loss, (0, 1, 2)))(*qkv)
  step = 1e-5
  for i, grad in enumerate(got):
    x = [np.asarray(a, np.float64) for a in qkv]
    want = np.zeros(x[i].shape)
    for at in np.ndindex(x[i].shape):
      sides = []
      for sign in (1, -1):
        moved = [a.copy() for a in x]
        moved[i][at] += sign * step
        sides.append(np.sum(np.sin(3 * by_pairs(*moved, 0.1))))
      want[at] = (sides[0] - sides[1]) / (2 * step)
    assert relative_error(grad, want) <= 1e-4


def test_bfloat16_is_summed_in_float32():
  qkv = inputs((1, 512, 1, 8), jnp.bfloat16)
  got = relu_linear_attention(*qkv)
  assert got.dtype == jnp.bfloat16
  # One rounding of the result is all that is lost.
  assert relative_error(got, by_pairs(*qkv, 1e-15)) <= 2**-8


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_query_without_matching_keys_gives_zero(dtype):
  q, k, v = inputs(dtype=dtype)
  q = q.at[:, 2].set(-abs(q[:, 2]))
  k = k.at[1].set(-abs(k[1]))
  out = relu_linear_attention(q, k, v)
  assert not out[0, 2].any() and not out[1].any()
  assert jnp.isfinite(out.astype(jnp.float32)).all()


def test_scaling_queries_changes_nothing_and_one_value_is_its_own_mean():
  q, k, v = inputs()
  q, k = abs(q), abs(k)
  np.testing.assert_allclose(
    relu_linear_attention(64 * q, k, v),
    relu_linear_attention(q, k, v),
    rtol=1e-5,
    atol=1e-6,
  )
  np.testing.assert_allclose(
    relu_linear_attention(q, k, jnp.full_like(v, 3.0)), 3.0, rtol=1e-6
  )


@pytest.mark.parametrize(
  'op, dtype, shape',
  [(name, *case) for name, cases in CASES.items() for case in cases],
  indirect=['op'],
  ids=str,
)
def test_backends_give_outputs_and_gradients_of_the_definition(
  op, shape, dtype
):
  bound = {'float32': 1e-5, 'bfloat16': 2**-8}[dtype]
  if op.keywords['implementation'] == 'mosaic_gpu':  # Its factors are bfloat16.
    bound = 2e-2
  qkv = inputs(shape, dtype)
  dout = inputs(shape, dtype)[0]
  got = with_gradients(op, qkv, dout)
  full = [x.astype(jnp.float32) for x in qkv]
  want = with_gradients(relu_linear_attention, full, dout)
  terms = with_gradients(with_a_constant_normaliser, full, dout)
  for a, b, term in zip(got, want, terms):
    assert a.dtype == dtype
    # That of bfloat16 is one rounding of the result.
    assert np.linalg.norm(np.asarray(a, np.float32) - b) <= bound * max(
      np.linalg.norm(b), np.linalg.norm(term)
    )


def with_a_constant_normaliser(q, k, v):
  """Its gradients are one of the two terms, which cancel for a single key."""
  weights = jnp.einsum('bihd,bjhd->bhij', jax.nn.relu(q), jax.nn.relu(k))
  total = jax.lax.stop_gradient(weights.sum(-1, keepdims=True) + 1e-15)
  return jnp.einsum('bhij,bjhd->bihd', weights / total, v)


@pytest.mark.parametrize(
  'op, dtype, shape',
  [
    ('mosaic_gpu', 'bfloat16', (2, 9, 1, 128)),
    ('mosaic_tpu', 'float32', (2, 530, 2, 72)),
    ('mosaic_tpu', 'bfloat16', (2, 1030, 3, 64)),
    ('xla', 'bfloat16', (2, 1030, 3, 64)),
    ('xla_chunked', 'float32', (2, 1030, 3, 64)),
  ],
  indirect=['op'],
  ids=str,
)
def test_backends_survive_large_inputs_and_keys_that_are_all_negative(
  op, dtype, shape
):
  q, k, v = (1000 * x for x in inputs(shape, dtype))
  k = k.at[1].set(-abs(k[1]))
  out, *grads = with_gradients(op, [q, k, v], jnp.ones_like(q))
  full = [x.astype(jnp.float32) for x in (q, k, v)]
  want = with_gradients(relu_linear_attention, full, jnp.ones_like(q))[0]
  assert relative_error(out, want) <= (1e-5 if dtype == 'float32' else 2e-2)
  assert not out[1].any()
  for grad in grads:
    assert jnp.isfinite(grad.astype(jnp.float32)).all()


@pytest.mark.long
@everywhere
def test_backends_run_in_vmap_scan_and_remat(pure):
  q, k, v = (jnp.stack([x, 2 - x]) for x in inputs((1, 33, 3, 32)))

  def loss(f, q, k, v):
    layer = jax.checkpoint(lambda q, _: (q + f(q, k, v), None))
    return jnp.sum(jnp.sin(jax.lax.scan(layer, q, length=2)[0]))

  of = lambda f: jax.jit(
    jax.vmap(jax.value_and_grad(functools.partial(loss, f), (0, 1, 2)))
  )(q, k, v)
  for got, want in zip(
    *map(jax.tree.leaves, (of(pure), of(relu_linear_attention)))
  ):
    assert relative_error(got, np.asarray(want)) <= 1e-5


def test_the_tpu_kernels_reject_unsupported_calls():
  on = functools.partial(relu_linear_attention, implementation='mosaic_tpu')
  with pytest.raises(dispatch.UnsupportedError, match='cpu'):
    on(*inputs())
  with dispatch.platform('tpu'):
    for qkv, why in [
      (inputs((1, 2, 1, 160)), '160'),
      (inputs(dtype=np.float16), 'float16'),
      (
        [*inputs()[:2], *inputs(dtype=jnp.bfloat16)[2:]],
        'float32, float32 and bfloat16',
      ),
    ]:
      with pytest.raises(dispatch.UnsupportedError, match=why):
        on(*qkv)


def test_models_can_prefer_the_tpu_kernels():
  preferred = dispatch.prefer(relu_linear_attention='mosaic_tpu')
  with dispatch.platform('tpu'), preferred:
    program = str(jax.make_jaxpr(relu_linear_attention)(*inputs()))
  assert 'name=relu_linear_attention_read' in program


@everywhere
@pytest.mark.parametrize(
  'shape',
  [{'sequence': 4}, {'data': 2, 'tensor': 2, 'sequence': 2}],
  ids=str,
)
def test_backends_give_the_same_on_a_mesh(pure, shape):
  qkv = inputs((2, 8, 4, 32))
  dout = inputs((2, 8, 4, 32))[0]
  want = with_gradients(relu_linear_attention, qkv, dout)
  devices = jax.devices()[: math.prod(shape.values())]
  mesh = make_mesh(shape, devices)
  spec = jax.P(
    'data' if 'data' in shape else None,
    'sequence' if 'sequence' in shape else None,
    'tensor' if 'tensor' in shape else None,
  )
  with jax.set_mesh(mesh):
    split = jax.device_put([*qkv, dout], jax.NamedSharding(mesh, spec))
    got = with_gradients(pure, split[:3], split[3])
  for a, b in zip(got, want):
    assert a.sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), 4)
    assert relative_error(a, np.asarray(b)) <= 1e-5


def test_chunks_keep_nothing_long_in_float32():
  shape = jax.ShapeDtypeStruct((1, 2**14, 2, 32), jnp.bfloat16)

  def temporaries(name):
    f = functools.partial(relu_linear_attention, implementation=name)
    loss = lambda *qkv: jnp.sum(f(*qkv).astype(jnp.float32))
    return (
      jax.jit(jax.grad(loss, (0, 1, 2)))
      .lower(shape, shape, shape)
      .compile()
      .memory_analysis()
      .temp_size_in_bytes
    )

  assert temporaries('xla_chunked') < temporaries('xla')
