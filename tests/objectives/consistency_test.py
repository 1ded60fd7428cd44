"""sCM's tangent and loss against finite differences and closed forms."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.diffusion.paths import Prediction, TrigFlow
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
    weighting='flat',
    discrete_step=0.25,
    huber=0.5,
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


def at_points(frozen, batch, keys, teacher=TEACHER):
  path = TrigFlow()
  model = teacher and Denoiser(teacher, path)
  return consistency.points(path, model, SETTINGS, frozen, batch, keys)


def loss(params, frozen, batch, keys, step):
  return consistency.scm(
    Denoiser(STUDENT, TrigFlow()),
    SETTINGS,
    params,
    at_points(frozen, batch, keys),
    step,
  )


@pytest.mark.long
def test_the_gradient_is_that_of_a_constant_normalised_tangent(case):
  weights, frozen, batch, keys = case
  path, student = TrigFlow(), Denoiser(STUDENT, TrigFlow())
  step = 3
  got = jax.jit(jax.grad(lambda p: loss(p, frozen, batch, keys, step)[0]))(
    weights
  )

  def constant(weights):
    x, t, speed, words = at_points(frozen, batch, keys)
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


@pytest.mark.long
def test_its_value_is_the_squared_length_of_the_normalised_tangent(case):
  value, metrics = jax.jit(loss)(*case, 100)
  norm = metrics['tangent_norm']
  assert 0 < value <= 1 + 1e-5
  assert norm > 0.1 and metrics['jvp_norm'] > 0


def test_published_weights_are_those_of_the_paper():
  t, logvar = jnp.array([0.3, 1.2]), jnp.array([0.5, -1.0])
  x = jnp.zeros((2, 3, 4, 5))
  prediction = Prediction(x, t, x, TrigFlow(), logvar)
  settings = ConfigDict(dict(weighting='published'))
  got = consistency.weighted(settings, jnp.array([6.0, 30.0]), prediction)
  error = np.array([6.0, 30.0]) / 60
  want = error * np.exp([-0.5, 1.0]) / (0.5 * np.tan([0.3, 1.2])) + logvar
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_without_a_teacher_the_data_and_noise_give_the_velocity(case):
  _, frozen, batch, keys = case
  x, t, speed, words = at_points(frozen, batch, keys, teacher=None)
  path = TrigFlow()
  np.testing.assert_allclose(
    path.data(x, speed, t), batch['latents'], atol=1e-5
  )
  assert set(np.asarray(words.guidance)) <= {2.0, 3.0}


def discrete(weights, target, at):
  return consistency.discrete(
    Denoiser(STUDENT, TrigFlow()), SETTINGS, weights, target, at
  )[0]


@pytest.mark.long
def test_the_discrete_loss_compares_both_ends_of_a_step_of_the_teacher(case):
  weights, frozen, batch, keys = case
  target = jax.tree.map(lambda x: 1.1 * x, weights)
  at = at_points(frozen, batch, keys)
  at = at._replace(t=jnp.array([0.1, 1.3]))  # The first ends at the data.
  path, student = TrigFlow(), Denoiser(STUDENT, TrigFlow())
  # A rotation of (x, dx/dt), as DDIM's step is on TrigFlow (2410.11081).
  turn = jnp.minimum(at.t, 0.25).reshape(-1, 1, 1, 1)
  ahead = jnp.cos(turn) * at.x - jnp.sin(turn) * at.speed
  s = at.t - turn.reshape(-1)
  goal = student(target, ahead, s, at.words).data()
  np.testing.assert_allclose(goal[0], ahead[0] / path.scale, atol=1e-5)
  error = student(weights, at.x, at.t, at.words).data() - goal
  h = 0.5 * np.sqrt(48)
  distance = np.sqrt(np.sum(np.asarray(error) ** 2, axis=(1, 2, 3)) + h**2) - h
  got = jax.jit(discrete)(weights, target, at)
  np.testing.assert_allclose(got, distance.mean(), rtol=1e-4)


@pytest.mark.long
def test_the_discrete_loss_has_no_gradient_in_its_target(case):
  weights, *rest = case
  at = at_points(*rest)
  grads = jax.jit(jax.grad(discrete, argnums=1))(weights, weights, at)
  assert not any(np.any(x) for x in jax.tree.leaves(grads))


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


@pytest.mark.parametrize('mean, std, sigma', [(-0.6, 1.0, 0.5), (1, 0.5, 1)])
def test_the_logarithm_of_noise_over_data_is_normal(mean, std, sigma):
  keys = jax.random.split(jax.random.key(0), 4096)
  draw = lambda key: consistency.angle(key, mean, std, sigma)
  angles = np.asarray(jax.jit(jax.vmap(draw))(keys), np.float64)
  logs = np.log(sigma * np.tan(angles))
  assert np.mean(logs) == pytest.approx(mean, abs=4 * std / 64)
  assert np.std(logs) == pytest.approx(std, rel=0.05)
