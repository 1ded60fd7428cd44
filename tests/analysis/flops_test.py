"""Counted operations against closed forms and the published figures."""

import functools

import jax
import jax.numpy as jnp
import pytest

from sana_jax.analysis import flops
from sana_jax.weights import kinds, zoo


def like(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def test_products_and_convolutions_are_their_closed_form():
  assert flops.count(lambda a, b: a @ b, like(3, 5), like(5, 7)) == (
    2 * 3 * 5 * 7
  )
  einsum = functools.partial(jnp.einsum, 'bnhk,bnhv->bhkv')
  assert flops.count(einsum, like(2, 9, 3, 4), like(2, 9, 3, 5)) == (
    2 * 2 * 9 * 3 * 4 * 5
  )
  conv = lambda x, k: jax.lax.conv_general_dilated(
    x, k, (2, 2), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  assert flops.count(conv, like(2, 8, 8, 3), like(3, 3, 3, 5)) == (
    2 * 2 * 4 * 4 * 9 * 3 * 5
  )


def test_loops_branches_and_calls_are_followed():
  a = like(4, 4)
  one = 2 * 4**3
  loop = lambda a: jax.lax.fori_loop(0, 6, lambda _, x: x @ a, a)
  assert flops.count(loop, a) == 6 * one
  branch = lambda a: jax.lax.cond(
    a.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, a
  )
  assert flops.count(branch, a) == 2 * one
  inside = jax.jit(jax.checkpoint(lambda a: a @ a))
  assert flops.count(inside, a) == one
  # Forward, and twice as much backward.
  grad = jax.grad(lambda a, b: (a @ b).sum(), (0, 1))
  assert flops.count(jax.jit(grad), a, a) in (2 * one, 3 * one)
  endless = lambda a: jax.lax.while_loop(
    lambda x: x.sum() > 0, lambda x: x @ x, a
  )
  with pytest.raises(ValueError, match='length is not known'):
    flops.count(endless, a)


@functools.cache
def described(name, part):
  """(module, shapes of its variables)."""
  model = zoo.get(name).module(part)
  return model, kinds.PARTS[part].shapes(model)


def of(name, part, *args, method='__call__'):
  model, variables = described(name, part)
  run = functools.partial(model.apply, method=method)
  return flops.count(run, variables, *args) / 1e12


# TFLOP of one picture at 512, 1024, 2048 and 4096 px, from the papers' sizes.
@pytest.mark.long
@pytest.mark.parametrize(
  'name, published',
  [
    ('sana_600m_1024', {16: 0.316, 32: 1.12, 64: 4.35, 128: 17.2}),
    ('sana_1600m_1024', {32: 2.97}),
    ('sana15_4800m_1024', {32: 8.89}),
  ],
)
def test_transformers_have_the_published_operations(name, published):
  for size, want in published.items():
    got = of(
      name, 'transformer', like(1, size, size, 32), like(1), like(1, 300, 2304)
    )
    assert got == pytest.approx(want, rel=6e-3)


@pytest.mark.long
def test_the_autoencoder_and_gemma_have_the_published_operations():
  name = 'sana_600m_1024'
  assert of(name, 'vae', like(1, 1024, 1024, 3), method='encode') == (
    pytest.approx(5.18, rel=5e-3)
  )
  # Upsampling takes 16 of the 36 multiplications that others spend on it.
  ups = [
    (1024, 1024, 64),
    (1024, 512, 128),
    (512, 512, 256),
    (512, 256, 512),
    (256, 128, 1024),
  ]
  saved = sum(2 * (9 - 4) * a * b * side**2 for a, b, side in ups) / 1e12
  assert of(name, 'vae', like(1, 32, 32, 32), method='decode') + saved == (
    pytest.approx(8.37, rel=5e-3)
  )
  assert of(
    name, 'text_encoder', like(1, 300, dtype='int32'), like(1, 300, dtype=bool)
  ) == pytest.approx(1.23, rel=5e-3)
