"""Paths against their definitions, and TrigFlow's conversion against Sprint's.

The formulas of `official` are those of NVlabs' SanaMSCM and its scheduler
(2503.09641, 3.1), in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.diffusion.paths import Flow, Prediction, TrigFlow

pytestmark = pytest.mark.fast

PATHS = [Flow(), TrigFlow(), TrigFlow(1.5)]
SIGMA = 0.5
ANGLES = np.array([0.0, 0.02, 0.3, 1.2, np.pi / 2])


def draws(count=2):
  return jax.random.normal(jax.random.key(0), (count, len(ANGLES), 2, 3))


def times(path):
  """Times from data to noise."""
  end = 1.0 if isinstance(path, Flow) else np.pi / 2
  return jnp.linspace(0, end, len(ANGLES))


def official(x, s, v):
  """(x_flow, t, F) of x = sigma_data cos s data + ..., and the flow's v."""
  s = np.float64(s)[:, None, None]
  t = np.sin(s) / (np.cos(s) + np.sin(s))
  x_flow = np.float64(x) / SIGMA * np.sqrt(t**2 + (1 - t) ** 2)
  f = ((1 - 2 * t) * x_flow + (1 - 2 * t + 2 * t**2) * np.float64(v)) / np.sqrt(
    t**2 + (1 - t) ** 2
  )
  return x_flow, t[:, 0, 0], f


def test_the_flow_is_a_straight_line():
  data, noise = draws()
  t = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
  x = Flow().interpolate(data, noise, t)
  np.testing.assert_allclose(x[0], data[0])
  np.testing.assert_allclose(x[1], 0.75 * data[1] + 0.25 * noise[1], rtol=1e-6)
  np.testing.assert_allclose(x[-1], noise[-1])
  np.testing.assert_array_equal(Flow().target(data, noise, t), noise - data)
  np.testing.assert_array_equal(Flow().timestep(t), 1000 * t)


def test_trigflow_is_an_arc():
  data, noise = draws()
  x = TrigFlow(SIGMA).interpolate(data, noise, jnp.asarray(ANGLES))
  s = ANGLES[:, None, None]
  want = np.cos(s) * SIGMA * data + np.sin(s) * SIGMA * noise
  np.testing.assert_allclose(x, want, atol=1e-6)
  np.testing.assert_allclose(x[-1], SIGMA * noise[-1], atol=1e-6)


@pytest.mark.parametrize('path', PATHS, ids=str)
def test_the_target_is_the_derivative_in_time(path):
  data, noise = draws()
  along = lambda t: path.interpolate(data, noise, t)
  t = times(path)
  _, derivative = jax.jvp(along, (t,), (jnp.ones_like(t),))
  np.testing.assert_allclose(path.target(data, noise, t), derivative, atol=1e-6)


@pytest.mark.parametrize('path', PATHS, ids=str)
def test_a_prediction_of_the_target_gives_data_and_noise(path):
  data, noise = draws()
  t = times(path)
  prediction = Prediction(
    path.interpolate(data, noise, t), t, path.target(data, noise, t), path
  )
  np.testing.assert_allclose(prediction.data(), data, atol=1e-6)
  np.testing.assert_allclose(prediction.noise(), noise, atol=1e-6)


def test_a_prediction_is_float32_whatever_the_network_computes_in():
  x = jnp.ones((2, 3))
  prediction = Prediction(x, jnp.float32(0.3), x.astype(jnp.bfloat16))
  for y in prediction.velocity(), prediction.data(), prediction.noise():
    assert y.dtype == jnp.float32


@pytest.mark.parametrize('path', PATHS, ids=str)
def test_a_single_time_applies_to_all_examples(path):
  data, noise = draws()
  x, v = (
    f(data, noise, jnp.float32(0.3)) for f in (path.interpolate, path.target)
  )
  t = jnp.full(len(ANGLES), 0.3)
  np.testing.assert_array_equal(x, path.interpolate(data, noise, t))
  np.testing.assert_array_equal(
    path.data(x, v, jnp.float32(0.3)), path.data(x, v, t)
  )


def test_trigflow_converts_to_the_flow_as_sprint_does():
  path, s = TrigFlow(SIGMA), jnp.asarray(ANGLES)
  x, v = draws()
  want_x, want_t, want_f = official(x, s, v)
  flow_x, flow_t = path.to_flow(x, s)
  np.testing.assert_allclose(flow_x, want_x, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(flow_t, want_t, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(
    path.timestep(s), 1000 * want_t, rtol=1e-6, atol=1e-4
  )
  got = path.velocity_from_flow(v, flow_x, flow_t)
  np.testing.assert_allclose(got, SIGMA * want_f, rtol=1e-6, atol=1e-6)


def test_trigflow_predicts_the_data_that_sprints_scheduler_takes():
  s, (x, f) = ANGLES, draws()
  want = np.cos(s)[:, None, None] * x - np.sin(s)[:, None, None] * SIGMA * f
  got = Prediction(x, jnp.asarray(s), SIGMA * f, TrigFlow(SIGMA)).data()
  np.testing.assert_allclose(SIGMA * got, want, atol=1e-6)


@pytest.mark.parametrize('path', PATHS, ids=str)
def test_conversion_to_the_flow_and_back_is_lossless(path):
  flow_x, flow_v = draws()
  flow_t = jnp.linspace(0, 1, len(ANGLES))
  x, t = path.from_flow(flow_x, flow_t)
  v = path.velocity_from_flow(flow_v, flow_x, flow_t)
  back_x, back_t = path.to_flow(x, t)
  relative = lambda got, want: (
    jnp.linalg.norm(got - want) / (jnp.linalg.norm(want))
  )
  assert relative(back_x, flow_x) <= 1e-6
  assert relative(path.velocity_to_flow(v, x, t), flow_v) <= 1e-6
  np.testing.assert_allclose(back_t, flow_t, atol=1e-6)
  np.testing.assert_allclose(path.time(path.timestep(t)), t, atol=1e-6)


def test_the_same_data_and_noise_are_the_same_prediction_on_every_path():
  data, noise = draws()
  flow_t = jnp.linspace(0, 1, len(ANGLES))
  on_flow = (
    Flow().interpolate(data, noise, flow_t),
    Flow().target(data, noise, flow_t),
  )
  for path in PATHS:
    x, t = path.from_flow(on_flow[0], flow_t)
    np.testing.assert_allclose(x, path.interpolate(data, noise, t), atol=1e-6)
    v = path.velocity_from_flow(on_flow[1], on_flow[0], flow_t)
    np.testing.assert_allclose(v, path.target(data, noise, t), atol=2e-6)
