"""Features: x after chosen blocks, and no stack of all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.analysis import flops
from sana_jax.errors import UserError
from sana_jax.models import abstract
from sana_jax.models.block import Block, BlockFields
from sana_jax.models.controlnet import SanaControlNet
from sana_jax.models.sana import Sana

SHARED = dict(
  width=16,
  depth=6,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  caption_channels=6,
)
MODEL = Sana(**SHARED, out_channels=3)
CHOSEN = (2, 4)


def normal(*shape):
  return jnp.asarray(np.random.default_rng().normal(size=shape), jnp.float32)


@functools.cache
def variables():
  return {
    'params': jax.tree.map(
      lambda s: normal(*s.shape) * 0.3, abstract.transformer(MODEL)
    )
  }


def inputs():
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  return normal(2, 4, 6, 3), jnp.float32([999, 136]), normal(2, 5, 6), mask


def evaluate(variables, *args, model=MODEL, **how):
  return model.apply(variables, *args, method='evaluate', **how)


run = jax.jit(evaluate, static_argnames=('features', 'model'))


def rest_of_the_model(model, x, first, grid, timesteps, text, mask):
  """The velocity from x after block `first`, one block after another."""
  time, modulation = model.embed_time(timesteps, None)
  text = model.caption(text)
  bias = (1 - mask.astype(jnp.float32)) * -10_000.0
  params = model.variables['params']['blocks']
  for i in range(first + 1, model.depth):
    x, _ = Block(BlockFields.of(model), parent=None).apply(
      {'params': jax.tree.map(lambda p, i=i: p[i], params)},
      x,
      modulation,
      text,
      bias,
      grid=grid,
    )
  return model.head(x, time, grid)


@pytest.mark.long
def test_features_are_x_after_the_chosen_blocks_and_no_others():
  weights, (latents, *rest) = variables(), inputs()
  out = run(weights, latents, *rest, features=CHOSEN)
  assert len(out.features) == 2
  want = jax.jit(MODEL.apply)(weights, latents, *rest)
  np.testing.assert_allclose(out.velocity, want, rtol=1e-5, atol=1e-5)
  from_block = jax.jit(
    functools.partial(MODEL.apply, method=rest_of_the_model),
    static_argnums=(2, 3),
  )
  for first, x in zip(CHOSEN, out.features):
    assert x.shape == (2, 24, 16)
    got = from_block(weights, x, first, (4, 6), *rest)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_the_order_of_features_and_unroll_change_nothing():
  args = variables(), *inputs()
  want = run(*args, features=CHOSEN).features
  unrolled = MODEL.clone(unroll=4, remat='full')
  got = run(*args, features=CHOSEN[::-1], model=unrolled).features
  for x, y in zip(got[::-1], want):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_gradients_flow_through_features():
  weights, (latents, *rest) = variables(), inputs()
  of_second = lambda x: jnp.sum(
    evaluate(weights, x, *rest, features=CHOSEN).features[1] ** 2
  )
  direction = normal(*latents.shape)

  @jax.jit
  def both(latents, direction):
    _, tangent = jax.jvp(of_second, (latents,), (direction,))
    return tangent, jax.grad(of_second)(latents)

  tangent, gradient = both(latents, direction)
  assert abs(tangent) > 1
  np.testing.assert_allclose(jnp.vdot(gradient, direction), tangent, rtol=1e-3)


def made(f, *args):
  """Shapes of all results, those inside of loops included."""

  def of(jaxpr):
    for e in jaxpr.eqns:
      yield from (v.aval.shape for v in e.outvars)
      for inner in flops.called(e.params):
        yield from of(inner)

  return set(of(jax.make_jaxpr(f)(*args).jaxpr))


def test_the_scan_does_not_keep_x_of_all_blocks():
  weights, args = variables(), inputs()
  stack, buffer = (6, 2, 24, 16), (3, 2, 24, 16)
  forward = made(lambda w: evaluate(w, *args, features=CHOSEN), weights)
  assert buffer in forward and stack not in forward
  # One that does, for comparison.
  net = SanaControlNet(**SHARED)
  latents, timesteps, text, _ = args
  given = latents, timesteps, text, latents
  shapes = jax.eval_shape(net.init, jax.random.key(0), *given)
  assert stack in made(lambda w: net.apply(w, *given), shapes)


def test_the_backward_pass_keeps_no_buffer_of_each_block():
  weights, args = variables(), inputs()
  loss = lambda w: sum(
    jnp.sum(x**2) for x in evaluate(w, *args, features=CHOSEN).features
  )
  backward = made(jax.grad(loss), weights)
  assert (3, 2, 24, 16) in backward
  assert (6, 3, 2, 24, 16) not in backward


@pytest.mark.parametrize('features', [(6,), (-1,), (2, 2)])
def test_features_of_missing_blocks_are_refused(features):
  weights, args = variables(), inputs()
  run = functools.partial(evaluate, features=features)
  with pytest.raises(UserError) as error:
    jax.eval_shape(run, weights, *args)
  assert (error.value.key, error.value.value) == ('features', features)
  assert error.value.allowed == 'different ones of 0 to 5'
