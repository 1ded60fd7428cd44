"""Low-rank adapters: output, gradients and memory."""

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.analysis import flops
from sana_jax.models import abstract
from sana_jax.models.layers import Dense
from sana_jax.models.sana import Sana

RANK = 2
# No two dense layers share a shape with any activation.
MODEL = Sana(
  width=24,
  depth=3,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=10,
)


def normal(shape, scale=1.0):
  rng = np.random.default_rng()
  return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def random_params(module=MODEL):
  return jax.tree.map(
    lambda s: normal(s.shape, s.shape[-1] ** -0.5),
    abstract.transformer(module),
  )


def inputs():
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  return normal((2, 4, 6, 3)), jnp.float32([999, 136]), normal((2, 5, 10)), mask


def kernels_of(params):
  """Kernels of dense layers, by their layer's path."""
  flat = flatten_dict(params)
  return {
    path[:-1]: x
    for path, x in flat.items()
    if path[-1] == 'kernel' and path[-2] not in ('patch_embed', 'depthwise')
  }


def new_adapters(params, size=0.3):
  """Random adapters of every dense layer of a Sana."""
  adapters = {}
  for path, kernel in kernels_of(params).items():
    *stack, inputs, outputs = kernel.shape
    adapters[path] = {
      'down': normal((*stack, inputs, RANK), inputs**-0.5),
      'up': normal((*stack, RANK, outputs), size),
      'scale': jnp.full(stack, 0.5),
    }
  return unflatten_dict(adapters)


@jax.jit
def merged(params, adapters):
  """The same model without adapters: kernel + scale down @ up."""
  flat, of = flatten_dict(params), flatten_dict(adapters)
  for path in kernels_of(params):
    scale = of[*path, 'scale'][..., None, None]
    flat[*path, 'kernel'] += scale * of[*path, 'down'] @ of[*path, 'up']
  return unflatten_dict(flat)


def apply(params, adapters, *args, **how):
  return MODEL.apply({'params': params, 'adapters': adapters}, *args, **how)


def assert_close(got, want, tolerance=1e-4):
  assert np.linalg.norm(want) > 1e-3
  assert np.linalg.norm(got - want) / np.linalg.norm(want) <= tolerance


def test_without_an_adapter_a_dense_layer_is_flaxs_program_and_values():
  def program(layer):
    init = lambda rng, x: layer(7, name='y', use_bias=True).init(rng, x)
    x = jnp.ones((2, 3, 5))
    variables = init(jax.random.key(1), x)
    run = jax.jit(lambda v, x: layer(7, dtype=jnp.bfloat16).apply(v, x))
    return variables, run.lower(variables, x).as_text()

  ours, reference = program(Dense), program(nn.Dense)
  jax.tree.map(np.testing.assert_array_equal, ours[0], reference[0])
  assert ours[1] == reference[1]


def test_an_adapter_adds_its_scaled_product():
  x, down, up, bias = (normal(s) for s in ((3, 5), (5, 2), (2, 7), (7,)))
  kernel = normal((5, 7))
  got = Dense(7).apply(
    {
      'params': {'kernel': kernel, 'bias': bias},
      'adapters': {'down': down, 'up': up, 'scale': jnp.float32(0.25)},
    },
    x,
  )
  want = np.float64(x) @ (kernel + 0.25 * np.float64(down) @ up) + bias
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_every_dense_layer_takes_an_adapter_and_so_does_projected_text():
  params, args = random_params(), inputs()
  adapters = new_adapters(params)
  assert len(kernels_of(params)) == 16
  want = jax.jit(MODEL.apply)({'params': merged(params, adapters)}, *args)
  run = jax.jit(apply, static_argnames='method')
  assert_close(run(params, adapters, *args), want)
  x, t, text, mask = args
  text = run(params, adapters, text, method='project_text')
  assert_close(run(params, adapters, x, t, text, mask), want)
  for path in kernels_of(params):  # None is without effect.
    fewer = flatten_dict(adapters)
    fewer[*path, 'up'] = np.zeros_like(fewer[*path, 'up'])
    moved = run(params, unflatten_dict(fewer), *args) - want
    assert jnp.abs(moved).max() > 1e-5, path


@pytest.mark.long
def test_training_an_adapter_follows_the_merged_weights_gradient():
  params, args = random_params(), inputs()
  start = new_adapters(params, size=0.0)
  target = normal((2, 4, 6, 3))
  error = lambda v: jnp.mean((v - target) ** 2)

  @jax.jit
  def step(adapters):
    value, grads = jax.value_and_grad(
      lambda adapters: error(apply(params, adapters, *args))
    )(adapters)
    moved = jax.tree.map(lambda x, g: x - 0.05 * g, adapters, grads)
    return value, grads, moved

  adapters, losses = start, []
  for _ in range(20):
    value, _, adapters = step(adapters)
    losses.append(value)
  assert losses[-1] < 0.9 * losses[0]

  value, grads, _ = step(adapters)
  whole = merged(params, adapters)
  want, full = jax.jit(
    jax.value_and_grad(lambda p: error(MODEL.apply({'params': p}, *args)))
  )(whole)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  grads, adapters, full = jax.device_get((grads, adapters, full))
  grads, of = flatten_dict(grads), flatten_dict(adapters)
  # W = W0 + s D U: dL/dD = s dL/dW U^T and dL/dU = s D^T dL/dW.
  for path, of_kernel in kernels_of(full).items():
    transposed = lambda name, path=path: np.swapaxes(of[*path, name], -1, -2)
    assert_close(
      1e3 * grads[*path, 'down'], 1e3 * 0.5 * of_kernel @ transposed('up'), 2e-3
    )
    assert_close(
      1e3 * grads[*path, 'up'], 1e3 * 0.5 * transposed('down') @ of_kernel, 2e-3
    )
    assert not grads[*path, 'scale'].any()


def arrays_made(jaxpr):
  """Shapes of all results, those inside of loops included."""
  for e in jaxpr.eqns:
    yield from (v.aval.shape for v in e.outvars)
    for inner in flops.called(e.params):
      yield from arrays_made(inner)


@pytest.mark.long
def test_no_array_of_a_weights_size_is_made_for_an_adapter():
  params, (x, *rest) = random_params(), inputs()
  adapters, model = new_adapters(params), MODEL.clone(remat='full')
  weights = {
    shape
    for w in kernels_of(params).values()
    for inner in [w.shape[-2:]]
    for shape in (w.shape, inner, inner[::-1], (*w.shape[:-2], *inner[::-1]))
  }

  def count(variables_of, *trained):
    """Full-size arrays of a loss and its gradient."""
    loss = lambda trained: jnp.sum(
      model.apply(variables_of(*trained), trained[0], *rest) ** 2
    )
    jaxpr = jax.make_jaxpr(jax.grad(loss))(trained).jaxpr
    return sum(shape in weights for shape in arrays_made(jaxpr))

  base = count(lambda x: {'params': params}, x)
  with_adapters = count(
    lambda x, adapters: {'params': params, 'adapters': adapters}, x, adapters
  )
  assert with_adapters == base
  of_merged = count(
    lambda x, adapters: {'params': merged(params, adapters)}, x, adapters
  )
  assert of_merged >= base + 2 * len(kernels_of(params))
