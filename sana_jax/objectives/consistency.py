"""Consistency distillation of a guided teacher: continuous (sCM) or discrete.

On TrigFlow, with sigma = `path.scale`, v = sigma F the student's velocity,
v' = stop_gradient(v), and dx/dt the teacher's velocity with guidance:

sCM (2410.11081, algorithm 1; 2503.09641, 3.2)
  g = cos^2 t (dx/dt - v') - r (cos t sin t x + w)
  w = cos t sin t (dv/dx dx/dt + dv/dt), by forward mode, without gradients
  error = |F - F' - g / (|g| + c)|^2 of an example, a sum over its elements
  r rises from 0 to 1 over `tangent_warmup_steps`; c is `tangent_norm`. The
  gradient is that of -2 <F, g / (|g| + c)>.

Discrete (2303.01469, 2310.14189)
  error = sqrt(|f(x, t) - f'(x', t')|^2 + h^2) - h,   t' = max(t - step, 0)
  x' is the teacher's DDIM step from t to t', f the student's data prediction,
  f' the same without gradient, or its EMA's, and h = `huber` sqrt(elements).

Weights of an error: `flat` is 1. `published` is e^-u / (sigma tan t), with + u,
of means over the elements, where u is the network's log-variance (2503.09641).
It gives angles near pi/2, from which single steps are made, nearly no weight:
12 points of a 1-step score of the small model.

Without a teacher, dx/dt is that of the batch's own data and noise, which trains
a student on new data (2410.11081, consistency training).
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.diffusion.paths import Path, Prediction
from sana_jax.objectives.base import Metrics
from sana_jax.objectives.levels import by_level
from sana_jax.objectives.sprint_networks import Adaptable
from sana_jax.typing import Array, Float, Keys, Params, PyTree


class Points(NamedTuple):
  """Points of the path, one for each example, and dx/dt there."""

  x: Float[Array, 'b *p c']
  t: Float[Array, 'b']
  speed: Float[Array, 'b *p c']
  words: Condition  # With the student's guidance scale.


def points(
  path: Path,
  teacher: Denoiser | None,
  settings: ConfigDict,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
) -> Points:
  """Random points of a batch, and the teacher's velocity with guidance.

  Args:
    path: of the student; the teacher's is the same.
    settings: config.sprint.
    frozen: teacher (parameters), null_text [m e] and null_mask [m].
    batch: latents [b *p c], text [b m e] and mask [b m].
    rngs: [b], one for each image's noise, angle and guidance scale.
  """
  data = batch['latents'].astype(jnp.float32)
  draw = functools.partial(_draw, settings, data.shape[1:], path.scale)
  noise, t, scale = jax.vmap(draw)(rngs)
  x = path.interpolate(data, noise, t)
  words = Condition(batch['text'], batch['mask'])
  if teacher is None:
    speed = path.target(data, noise, t)
  else:
    speed = guided(teacher, frozen, x, t, words, scale)
  return Points(x, t, speed, words._replace(guidance=scale))


def scm(
  student: Denoiser | Adaptable,
  settings: ConfigDict,
  params: Params,
  at: Points,
  step: Array | int,
  weights: Float[Array, 'b *_'] | None = None,
) -> tuple[Float[Array, ''], Metrics]:
  """sCM's loss, a mean over examples, in float32.

  Args:
    student: embeds the guidance scale; its path is a TrigFlow.
    settings: config.sprint.
    params: the student's.
    at: the points, see `points`.
    step: number of previous steps.
    weights: of the examples, by their mean over the latents.
  """
  x, t, speed, words = at
  predict = lambda params, x, t: student(params, x, t, words)
  velocity = lambda x, t: predict(params, x, t).velocity()
  warm = jnp.minimum(1.0, step / max(1, settings.tangent_warmup_steps))
  v, g, w = tangent(velocity, x, t, speed, warm)
  norm = norms(g)
  g = g / (over(norm, g) + settings.tangent_norm)
  prediction = predict(params, x, t)
  error = (prediction.velocity() - v) / student.path.scale - g
  of_each = weighted(
    settings, jnp.sum(error**2, _axes(error)), prediction, weights
  )
  return jnp.mean(of_each), {
    'loss_by_noise': by_level(of_each, student.path.timestep(t) / 1000),
    'tangent_norm': jnp.mean(norm),
    'tangent_ratio': jnp.mean(norm) / jnp.mean(norms(v)),
    'jvp_norm': jnp.mean(norms(w)),
  }


def discrete(
  student: Denoiser | Adaptable,
  settings: ConfigDict,
  params: Params,
  target: Params,
  at: Points,
  weights: Float[Array, 'b *_'] | None = None,
) -> tuple[Float[Array, ''], Metrics]:
  """The discrete loss, a mean over examples, in float32.

  Args:
    student: as for `scm`, as are settings, params, at and weights.
    target: parameters of f'.
  """
  x, t, speed, words = at
  path = student.path
  s = jnp.maximum(t - settings.discrete_step, 0.0)
  ahead = path.interpolate(path.data(x, speed, t), path.noise(x, speed, t), s)
  goal = student(jax.lax.stop_gradient(target), ahead, s, words).data()
  prediction = student(params, x, t, words)
  error = prediction.data() - jax.lax.stop_gradient(goal)
  h = settings.huber * jnp.sqrt(jnp.float32(error[0].size))
  distance = jnp.sqrt(jnp.sum(error**2, _axes(error)) + h**2) - h
  of_each = weighted(settings, distance, prediction, weights)
  return jnp.mean(of_each), {
    'loss_by_noise': by_level(of_each, path.timestep(t) / 1000)
  }


def weighted(
  settings: ConfigDict,
  errors: Float[Array, 'b'],
  prediction: Prediction,
  weights: Float[Array, 'b *_'] | None = None,
) -> Float[Array, 'b']:
  """Errors with their weights; see the top of this file."""
  if settings.weighting == 'published':
    mean = errors / prediction.x[0].size
    weight = 1 / (prediction.path.scale * jnp.tan(prediction.t))
    errors = weight * jnp.exp(-prediction.logvar) * mean + prediction.logvar
  if weights is None:
    return errors
  return errors * jnp.mean(weights, _axes(weights))


def tangent(
  predict: Callable[[Array, Array], Array],
  x: Float[Array, 'b *p c'],
  t: Float[Array, 'b'],
  speed: Float[Array, 'b *p c'],
  warm: float | Array = 1.0,
) -> tuple[Array, Array, Array]:
  """The student's velocity, g and w, without gradients.

  Args:
    predict: (x, t) -> v.
    speed: dx/dt, the teacher's.
    warm: r.
  """
  x, t, speed = jax.lax.stop_gradient((x, t, speed))
  cos, sin = over(jnp.cos(t), x), over(jnp.sin(t), x)
  directions = cos * sin * speed, jnp.cos(t) * jnp.sin(t)
  v, w = jax.lax.stop_gradient(jax.jvp(predict, (x, t), directions))
  return v, cos**2 * (speed - v) - warm * (cos * sin * x + w), w


def guided(
  teacher: Denoiser,
  frozen: PyTree,
  x: Float[Array, 'b *p c'],
  t: Float[Array, 'b'],
  words: Condition,
  scale: Float[Array, 'b'],
) -> Float[Array, 'b *p c']:
  """The teacher's velocity with a guidance scale for each example."""
  null = Condition(
    jnp.broadcast_to(frozen['null_text'], words.text.shape),
    jnp.broadcast_to(frozen['null_mask'], words.mask.shape),
  )
  both = jax.tree.map(lambda *a: jnp.concatenate(a), null, words)
  twice = lambda a: jnp.concatenate([a, a])
  v = teacher(frozen['teacher'], twice(x), twice(t), both).velocity()
  without, conditional = jnp.split(jax.lax.stop_gradient(v), 2)
  return without + over(scale, x) * (conditional - without)


def angle(rng, mean: float, std: float, sigma: float) -> Float[Array, '']:
  """Random angle t with log(sigma tan t) normal."""
  normal = jax.random.normal(rng)
  return jnp.arctan(jnp.exp(mean + std * normal) / sigma)


def norms(x: Float[Array, 'b *x']) -> Float[Array, 'b']:
  """Length of each example."""
  return jnp.sqrt(jnp.sum(x**2, _axes(x)))


def over(values: Float[Array, 'b'], x: Float[Array, 'b *x']) -> Array:
  """Values of examples that broadcast over x."""
  return values.reshape(values.shape + (1,) * (x.ndim - 1))


def _axes(x):
  return tuple(range(1, x.ndim))


def _draw(settings, shape, sigma, rng):
  """An image's noise, angle and guidance scale."""
  noise_rng, time_rng, scale_rng = jax.random.split(rng, 3)
  t = angle(time_rng, settings.mean, settings.std, sigma)
  scale = jax.random.choice(scale_rng, jnp.float32(settings.guidance_scales))
  return jax.random.normal(noise_rng, shape), t, scale
