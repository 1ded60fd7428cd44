"""sCM's tangent and loss against finite differences and closed forms."""

import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.diffusion.paths import TrigFlow
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.objectives import consistency

TEACHER = Sana(
  width=16,
  depth=2,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
)
STUDENT = TEACHER.clone(guidance_embeds=True)
SETTINGS = ConfigDict(
  dict(
    mean=0.2,
    std=1.6,
    guidance_scales=(2.0, 3.0),
    tangent_warmup_steps=4,
    tangent_norm=0.1,
  )
)


def normal(*shape, std=1.0):
  draw = np.random.default_rng().normal(scale=std, size=shape)
  return jnp.asarray(draw.astype(np.float32))


def params(module):
  shapes = abstract.transformer(module)
  return jax.tree.map(lambda s: normal(*s.shape, std=0.3), shapes)


@pytest.fixture
def case():
  """(student's parameters, frozen, batch, keys)."""
  mask = jnp.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
  frozen = {
    'teacher': params(TEACHER),
    'null_text': normal(4, 6),
    'null_mask': jnp.array([1, 0, 0, 0], bool),
  }
  batch = {
    'latents': normal(2, 4, 4, 3),
    'text': normal(2, 4, 6),
    'mask': mask,
  }
  return params(STUDENT), frozen, batch, jax.random.split(jax.random.key(1))


def curve(x, t):
  """A velocity whose derivatives are known, example by example."""
  t = t.reshape(-1, 1)
  return jnp.sin(x) * t + x**2


def test_the_tangent_is_the_derivative_along_the_teachers_path():
  with jax.enable_x64():
    generator = np.random.default_rng()
    x, speed = (jnp.asarray(generator.normal(size=(3, 5))) for _ in range(2))
    t = jnp.asarray([0.02, 0.7, 1.57])
    v, g, w = consistency.tangent(curve, x, t, speed, 0.6)
    cos, sin = (np.asarray(f(t)).reshape(3, 1) for f in (np.cos, np.sin))
    step = 1e-5
    ahead, behind = (
      curve(x + e * cos * sin * speed, t + (e * cos * sin)[:, 0])
      for e in (step, -step)
    )
    numeric = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(w, numeric, rtol=1e-6, atol=1e-8)
    want = cos**2 * (speed - curve(x, t)) - 0.6 * (cos * sin * x + numeric)
    np.testing.assert_allclose(g, want, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(v, curve(x, t))


def losses():
  path = TrigFlow()
  return functools.partial(
    consistency.consistency_loss,
    Denoiser(STUDENT, path),
    Denoiser(TEACHER, path),
    SETTINGS,
  )


def test_the_gradient_is_that_of_a_constant_normalised_tangent(case):
  weights, frozen, batch, keys = case
  path, student = TrigFlow(), Denoiser(STUDENT, TrigFlow())
  step = 3
  got = jax.jit(jax.grad(lambda p: losses()(p, frozen, batch, keys, step)[0]))(
    weights
  )

  def constant(weights):
    draw = functools.partial(
      consistency._draw, SETTINGS, batch['latents'].shape[1:], path.scale
    )
    noise, t, scale = jax.vmap(draw)(keys)
    x = path.interpolate(batch['latents'], noise, t)
    words = Condition(batch['text'], batch['mask'], scale)
    speed = consistency.guided(
      Denoiser(TEACHER, path),
      frozen,
      x,
      t,
      words._replace(guidance=None),
      scale,
    )
    predict = lambda p: lambda x, t: student(p, x, t, words).velocity()
    _, g, _ = consistency.tangent(predict(weights), x, t, speed, step / 4)
    norm = jnp.sqrt(jnp.sum(g**2, axis=(1, 2, 3), keepdims=True))
    g = jax.lax.stop_gradient(g / (norm + 0.1))
    product = jnp.sum(predict(weights)(x, t) / path.scale * g, axis=(1, 2, 3))
    return -2 * jnp.mean(product)

  want = jax.jit(jax.grad(constant))(weights)
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    bound = 1e-5 * max(1.0, float(np.abs(b).max()))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=bound)


def test_its_value_is_the_squared_length_of_the_normalised_tangent(case):
  loss, aux = jax.jit(losses())(*case, 100)
  norm = aux.metrics['tangent_norm']
  assert loss <= 1 + 1e-5
  assert loss > 0 and norm > 0.1 and aux.metrics['jvp_norm'] > 0


def test_guidance_is_of_each_example():
  def teacher(params, x, t, words):
    del params, t
    return Predicted(words.text[:, :1, :1] + 0 * x)

  x = jnp.zeros((2, 3, 1))
  words = Condition(jnp.full((2, 1, 1), 5.0), jnp.ones((2, 1), bool))
  frozen = {
    'teacher': {},
    'null_text': jnp.full((1, 1), 2.0),
    'null_mask': jnp.ones((1,), bool),
  }
  scale = jnp.float32([1.0, 3.0])
  got = consistency.guided(teacher, frozen, x, scale, words, scale)
  np.testing.assert_array_equal(got[:, 0, 0], [5.0, 11.0])


class Predicted:
  def __init__(self, v):
    self.v = v

  def velocity(self):
    return self.v
