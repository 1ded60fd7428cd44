"""The denoiser against direct calls of its network, and Sprint's formulas."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion import samplers
from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.diffusion.guidance import Guidance, guide
from sana_jax.diffusion.paths import Flow, TrigFlow
from sana_jax.diffusion.time_grids import TimeGrid
from sana_jax.models import abstract
from sana_jax.models.sana import Output, Sana

MODEL = Sana(
  width=16,
  depth=3,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
)
SIGMA = 0.5


def normal(*shape, std=1.0):
  draw = np.random.default_rng().normal(scale=std, size=shape)
  return jnp.asarray(draw.astype(np.float32))


@functools.cache
def params(guidance_embeds):
  shapes = abstract.transformer(MODEL.clone(guidance_embeds=guidance_embeds))
  return jax.tree.map(lambda s: normal(*s.shape, std=0.3), shapes)


def inputs():
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  return normal(2, 4, 6, 3), jnp.float32([0.9, 0.2]), normal(2, 5, 6), mask


@functools.partial(
  jax.jit, static_argnums=0, static_argnames=('method', 'features')
)
def _network(module, params, *args, **how):
  return module.apply({'params': params}, *args, **how)


def network(module, *args, **how):
  """Direct call of the network."""
  return _network(module, params(module.guidance_embeds), *args, **how)


@functools.partial(jax.jit, static_argnums=0, static_argnames='features')
def _run(denoiser, params, *args, **how):
  return denoiser(params, *args, **how)


def run(denoiser, x, t, condition, **how):
  weights = params(denoiser.module.guidance_embeds)
  return _run(denoiser, weights, x, t, condition, **how)


@pytest.mark.long
def test_on_the_flow_it_is_the_networks_velocity_at_1000_t():
  x, t, text, mask = inputs()
  prediction = run(Denoiser(MODEL), x, t, Condition(text, mask))
  v = network(MODEL, x, 1000 * t, text, mask)
  np.testing.assert_allclose(prediction.velocity(), v, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    prediction.data(), x - t[:, None, None, None] * v, rtol=1e-4, atol=1e-5
  )
  assert prediction.logvar is None and prediction.features == ()


@pytest.mark.long
def test_timesteps_are_scaled_and_may_differ_from_the_paths_time():
  x, t, text, mask = inputs()
  scaled = MODEL.clone(timestep_scale=0.001)
  got = run(Denoiser(scaled), x, t, Condition(text, mask))
  np.testing.assert_allclose(
    got.velocity(), network(MODEL, x, t, text, mask), rtol=1e-5, atol=1e-5
  )
  got = run(
    Denoiser(MODEL),
    x,
    jnp.float32(0.5),
    Condition(text, mask),
    timestep=jnp.float32(136.0),
  )
  want = network(MODEL, x, jnp.full(2, 136.0), text, mask)
  np.testing.assert_allclose(got.velocity(), want, rtol=1e-5, atol=1e-5)
  assert got.t == 0.5


@pytest.mark.long
def test_text_is_projected_once():
  x, t, text, mask = inputs()
  denoiser = Denoiser(MODEL)
  condition = jax.jit(denoiser.condition)(params(False), text, mask)
  assert all(len(y) == len(x) for y in jax.tree.leaves(condition))
  got, want = (
    run(denoiser, x, t, c).velocity()
    for c in (condition, Condition(text, mask))
  )
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_the_guidance_scale_is_multiplied_for_the_network():
  module = MODEL.clone(guidance_embeds=True, guidance_embeds_scale=0.1)
  x, t, text, mask = inputs()
  condition = jax.jit(Denoiser(module).condition)(params(True), text, mask, 4.5)
  got = run(Denoiser(module), x, t, condition).velocity()
  want = network(module, x, 1000 * t, text, mask, jnp.full(2, 0.45))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_trigflow_calls_the_network_as_sprint_does():
  x, _, text, mask = inputs()
  s = jnp.array([1.57080, 0.3])
  got = run(Denoiser(MODEL, TrigFlow(SIGMA)), x, s, Condition(text, mask))
  # NVlabs' SanaMSCM, see paths_test.py.
  t = np.sin(s) / (np.cos(s) + np.sin(s))
  n = np.sqrt(t**2 + (1 - t) ** 2)[:, None, None, None]
  x_flow = x / SIGMA * n
  v = network(MODEL, x_flow, 1000 * t, text, mask)
  t = t[:, None, None, None]
  f = ((1 - 2 * t) * x_flow + (1 - 2 * t + 2 * t**2) * v) / n
  np.testing.assert_allclose(got.velocity(), SIGMA * f, rtol=1e-4, atol=1e-5)


def test_its_tangent_is_a_central_difference():
  """Along the angle and the sample, as Sprint's consistency loss needs it."""
  x, _, text, mask = inputs()
  denoiser = Denoiser(MODEL.clone(timestep_scale=0.001), TrigFlow())
  along = normal(*x.shape)

  @jax.jit
  def f(e):
    s = jnp.array([1.2, 0.3]) + e
    return denoiser(
      params(False), x + e * along, s, Condition(text, mask)
    ).velocity()

  _, tangent = jax.jit(lambda e: jax.jvp(f, (e,), (jnp.ones_like(e),)))(0.0)
  step = 3e-3
  want = (f(step) - f(-step)) / (2 * step)
  assert jnp.linalg.norm(tangent - want) <= 1e-2 * jnp.linalg.norm(want)


def test_features_and_control_reach_the_network():
  x, t, text, mask = inputs()
  control = normal(2, 2, 24, 16)
  got = run(
    Denoiser(MODEL),
    x,
    t,
    Condition(text, mask, control=control),
    features=(1,),
  )
  want = network(
    MODEL,
    x,
    1000 * t,
    text,
    mask,
    control=control,
    features=(1,),
    method='evaluate',
  )
  np.testing.assert_allclose(
    got.velocity(), want.velocity, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    got.features[0], want.features[0], rtol=1e-4, atol=1e-5
  )


class Adapted(nn.Module):
  """Network of one parameter, with an adapter and an estimate of its error."""

  dtype = jnp.bfloat16
  timestep_scale = 1.0

  @nn.compact
  def evaluate(
    self, x, timesteps, text, mask, guidance, control, perturbed, features
  ):
    scale = self.param('scale', nn.initializers.ones, ())
    if self.has_variable('adapters', 'scale'):
      scale = scale + self.get_variable('adapters', 'scale')
    return Output(x * scale.astype(x.dtype), (), -timesteps)


def test_adapters_are_applied_and_the_variance_is_returned():
  x = jnp.full((2, 3), 2.0)
  call = functools.partial(
    Denoiser(Adapted()),
    {'scale': jnp.float32(1.0)},
    x,
    jnp.full(2, 0.5),
    Condition(None),
  )
  np.testing.assert_array_equal(call().velocity(), 2.0)
  adapted = call(adapters={'scale': jnp.float32(3.0)})
  np.testing.assert_array_equal(adapted.velocity(), 8.0)
  assert adapted.velocity().dtype == jnp.float32
  np.testing.assert_array_equal(adapted.logvar, -500.0)


class Arc(NamedTuple):
  x: jax.Array


class Ddim:
  """DDIM sampler: x' at the next time, from the predicted data and noise."""

  def init(self, x, rng):
    return Arc(x)

  def step(self, carry, prediction, at, rng):
    return Arc(
      prediction.path.interpolate(prediction.data(), prediction.noise(), at.s)
    )


@pytest.mark.long
@pytest.mark.parametrize(
  'options',
  [
    Guidance(1.0),
    Guidance(3.0, apg_eta=0.2, interval=(0.2, 0.8)),
    Guidance(3.0, pag_scale=2.0),
  ],
  ids=str,
)
def test_ddim_on_trigflow_is_eulers_method_on_the_flow(options):
  """Exactly, guided or not: both follow the same data and noise."""
  noise, _, text, mask = inputs()
  times = np.float32([0.9, 0.7, 0.45, 0.15, 0.0])
  angles = np.arctan2(times, 1 - times)
  null = Condition(jnp.zeros_like(text), mask)
  layers = jnp.arange(MODEL.depth)[:, None] == 1

  def sample(sampler, grid):
    denoiser = Denoiser(MODEL, grid.path)

    def model(x, t, condition, *, timestep, perturbed=None):
      if perturbed is not None:
        perturbed = layers & perturbed
      return denoiser(
        params(False), x, t, condition, timestep=timestep, perturbed=perturbed
      )

    predict = guide(model, Condition(text, mask), null, options)
    return jax.jit(lambda x: samplers.sample(sampler, predict, x, grid))(noise)

  flow = sample(samplers.Euler(), TimeGrid(times, 1000 * times[:-1], Flow()))
  # The flow starts from noise whole, the arc from its part at .9.
  start = SIGMA / np.hypot(times[0], 1 - times[0])
  noise = noise * np.float32(start / SIGMA)
  arc = sample(Ddim(), TimeGrid(angles, 1000 * times[:-1], TrigFlow(SIGMA)))
  assert jnp.linalg.norm(arc - flow) <= 1e-4 * jnp.linalg.norm(flow)


@pytest.mark.long
def test_guidance_has_an_interval_in_bfloat16_too():
  x, _, text, mask = inputs()
  denoiser = Denoiser(MODEL.clone(dtype=jnp.bfloat16))
  text, null = Condition(text, mask), Condition(0 * text, mask)
  predict = jax.jit(
    guide(
      functools.partial(denoiser, params(False)),
      text,
      null,
      Guidance(3.0, interval=(0.2, 0.8)),
    )
  )
  got = lambda t: predict(x, jnp.float32(t), jnp.float32(1000 * t)).velocity()
  alone = lambda t, condition: run(
    denoiser, x, jnp.float32(t), condition
  ).velocity()
  error = lambda got, want: jnp.linalg.norm(got - want) / jnp.linalg.norm(want)
  assert got(0.9).dtype == jnp.float32
  assert error(got(0.9), alone(0.9, text)) <= 0.02
  u, c = alone(0.5, null), alone(0.5, text)
  assert error(got(0.5), u + 3 * (c - u)) <= 0.05
  assert error(got(0.5), c) > 3 * error(got(0.5), u + 3 * (c - u))
