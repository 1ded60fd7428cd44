"""Continuous-time consistency distillation (sCM) of a guided teacher.

On TrigFlow, with sigma = `path.scale`, v = sigma F the student's velocity,
v' = stop_gradient(v), and dx/dt the teacher's velocity with guidance
(2410.11081, algorithm 1; 2503.09641, 3.2):

  g = cos^2 t (dx/dt - v') - r (cos t sin t x + w)
  w = cos t sin t (dv/dx dx/dt + dv/dt), by forward mode, without gradients
  loss = mean over examples of  sum (F - F' - g / (|g| + c))^2

r rises from 0 to 1 over `tangent_warmup_steps`; c is `tangent_norm`. The
gradient is that of -2 <F, g / (|g| + c)>. The published weight, 1 / (sigma tan
t), and log-variance are left out: normalised tangents have the same size at all
times, and 1 / tan t gives those near pi/2, from which single steps are made,
nearly no weight (12 points of a 1-step score of the small model).
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.objectives.base import Aux
from sana_jax.objectives.levels import by_level
from sana_jax.typing import Array, Float, Keys, Params, PyTree


def consistency_loss(
  student: Denoiser,
  teacher: Denoiser,
  settings: ConfigDict,
  params: Params,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
  step: Array | int,
) -> tuple[Array, Aux]:
  """The loss above, in float32.

  Args:
    student: embeds the guidance scale; its path is a TrigFlow.
    teacher: has the same path.
    settings: config.sprint.
    params: the student's.
    frozen: teacher (parameters), null_text [m e] and null_mask [m].
    batch: latents [b *p c], text [b m e] and mask [b m].
    rngs: [b], one for each image's noise, time and guidance scale.
    step: number of previous steps.
  """
  data = batch['latents'].astype(jnp.float32)
  draw = functools.partial(_draw, settings, data.shape[1:], student.path.scale)
  noise, t, scale = jax.vmap(draw)(rngs)
  x = student.path.interpolate(data, noise, t)
  words = Condition(batch['text'], batch['mask'])
  speed = guided(teacher, frozen, x, t, words, scale)
  given = words._replace(guidance=scale)
  predict = lambda params, x, t: student(params, x, t, given).velocity()
  warm = jnp.minimum(1.0, step / max(1, settings.tangent_warmup_steps))
  v, g, w = tangent(functools.partial(predict, params), x, t, speed, warm)
  norm = _norm(g)
  g = g / (_over(norm, g) + settings.tangent_norm)
  error = (predict(params, x, t) - v) / student.path.scale - g
  of_each = jnp.sum(error**2, axis=tuple(range(1, error.ndim)))
  metrics = {
    'loss_by_noise': by_level(of_each, student.path.timestep(t) / 1000),
    'tangent_norm': jnp.mean(norm),
    'jvp_norm': jnp.mean(_norm(w)),
  }
  return jnp.mean(of_each), Aux(metrics)


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
  cos, sin = _over(jnp.cos(t), x), _over(jnp.sin(t), x)
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
  return without + _over(scale, x) * (conditional - without)


def _draw(settings, shape, sigma, rng):
  """An image's noise, angle and guidance scale."""
  noise_rng, time_rng, scale_rng = jax.random.split(rng, 3)
  normal = jax.random.normal(time_rng)
  t = jnp.arctan(jnp.exp(settings.mean + settings.std * normal) / sigma)
  scale = jax.random.choice(scale_rng, jnp.float32(settings.guidance_scales))
  return jax.random.normal(noise_rng, shape), t, scale


def _norm(x):
  """Length of each example."""
  return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim))))


def _over(values, x):
  """Values of examples that broadcast over x."""
  return values.reshape(values.shape + (1,) * (x.ndim - 1))
