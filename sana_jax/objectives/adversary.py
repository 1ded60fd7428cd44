"""The adversarial part of a distillation: fakes, their scores, both losses.

    student -> fake data -+
    latents -> real ------+-> noised -> teacher's features -> heads -> logits
    rolled latents -------+

Rolled latents have another example's caption. (2403.12015; 2503.09641, 3.3)
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sana_jax.diffusion.denoiser import Condition
from sana_jax.objectives import consistency, latent_adversarial
from sana_jax.objectives.base import Metrics
from sana_jax.objectives.sprint_networks import Sprint
from sana_jax.typing import Array, Float, Keys, Params, PRNGKeyArray, PyTree

DISCRIMINATOR, SPECTRAL = 'discriminator', 'spectral'
# A little above pi/2, as in the official code.
LARGEST_ANGLE = 1.5708


class Turn(NamedTuple):
  """Players whose losses are computed."""

  student: bool
  discriminator: bool


def init(sprint: Sprint, rng: PRNGKeyArray) -> Params:
  """First parameters of the heads, and vectors of their spectral norms."""
  module = sprint.teacher.module
  features = [jnp.zeros((1, 1, module.width))] * len(sprint.ladd.blocks)
  variables = sprint.heads.init(rng, features)
  spectral = variables.get('spectral', {})
  return {DISCRIMINATOR: variables['params']} | (
    {SPECTRAL: spectral} if spectral else {}
  )


def losses(
  sprint: Sprint,
  turn: Turn,
  params: Params,
  student: Params,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
  step: Array | int,
) -> tuple[Float[Array, ''], Metrics, PyTree]:
  """The weighted loss of a turn, metrics, and the next `spectral`.

  Args:
    params: with the heads' parameters.
    student: the student's parameters.
    frozen, batch: see consistency.points.
    rngs: [b]; the keys of `points` are others.
    step: number of previous turns of the student.
  """
  rngs = jax.vmap(lambda key: jax.random.fold_in(key, 1))(rngs)
  data = batch['latents'].astype(jnp.float32)
  words = Condition(batch['text'], batch['mask'])
  fake = _fakes(sprint, student, data, words, rngs)
  if not turn.student:
    fake = jax.lax.stop_gradient(fake)
  others = [data, latent_adversarial.misaligned(data)]
  others = others[: 1 + sprint.ladd.misaligned] if turn.discriminator else []
  features = _features(sprint, frozen, [fake, *others], words, rngs)
  heads, extra = _scorer(sprint, params)
  loss, metrics = jnp.float32(0), {}
  kind = latent_adversarial.LOSSES[sprint.ladd.loss]
  if turn.student:
    still = jax.lax.stop_gradient(params[DISCRIMINATOR])
    adversarial = kind.generator(heads(still, features[0]))
    weight = sprint.ladd.weight * (step >= sprint.ladd.start)
    loss, metrics = loss + weight * adversarial, {'adversarial': adversarial}
  if turn.discriminator:
    more, seen = _judged(
      sprint, kind, functools.partial(heads, params[DISCRIMINATOR]), features
    )
    loss, metrics = loss + more, metrics | seen
  return loss, metrics, extra


def _judged(sprint, kind, score, features):
  """The discriminator's loss, and mean logits."""
  fake, real, *wrong = (score(f) for f in jax.lax.stop_gradient(features))
  loss = kind.discriminator(real, jnp.concatenate([fake, *wrong]))
  metrics = {'logits/real': jnp.mean(real), 'logits/fake': jnp.mean(fake)}
  if wrong:
    metrics['logits/misaligned'] = jnp.mean(wrong[0])
  if sprint.ladd.r1:
    penalty = latent_adversarial.gradient_penalty(score, features[1])
    loss, metrics = loss + sprint.ladd.r1 * penalty, metrics | {'r1': penalty}
  return loss, metrics | {'discriminator': loss}


def _scorer(sprint, params):
  """((heads' parameters, features) -> logits), and the next `spectral`."""
  if SPECTRAL not in params:
    return lambda own, x: sprint.heads.apply({'params': own}, x), {}
  spectral = sprint.heads.renewed(params[DISCRIMINATOR], params[SPECTRAL])
  apply = lambda own, x: sprint.heads.apply(
    {'params': own, 'spectral': spectral}, x
  )
  return apply, {SPECTRAL: spectral}


def _fakes(sprint, student, data, words, rngs):
  """Data that the student predicts in one step, at angles of their own.

  A fraction `largest_time` of them starts at pure noise.
  """
  path, settings = sprint.student.path, sprint.settings

  def draw(rng):
    noise, angle, scale, largest = jax.random.split(rng, 4)
    t = consistency.angle(angle, settings.mean, settings.std, path.scale)
    largest = jax.random.bernoulli(largest, sprint.ladd.largest_time)
    return (
      jax.random.normal(noise, data.shape[1:]),
      jnp.where(largest, LARGEST_ANGLE, t),
      jax.random.choice(scale, jnp.float32(settings.guidance_scales)),
    )

  noise, t, scale = jax.vmap(draw)(rngs)
  x = path.interpolate(data, noise, t)
  return sprint.student(student, x, t, words._replace(guidance=scale)).data()


def _features(
  sprint: Sprint,
  frozen: PyTree,
  groups: Sequence[Array],
  words: Condition,
  rngs: Keys,
) -> list[tuple[Array, ...]]:
  """The teacher's features of each group of latents, with noise of its own."""
  path, settings = sprint.teacher.path, sprint.ladd

  def noised(number, latents):
    def draw(rng):
      noise, angle = jax.random.split(jax.random.fold_in(rng, 2 + number))
      t = consistency.angle(angle, settings.mean, settings.std, path.scale)
      return jax.random.normal(noise, latents.shape[1:]), t

    noise, t = jax.vmap(draw)(rngs)
    return path.interpolate(latents, noise, t), t

  x, t = map(
    jnp.concatenate, zip(*(noised(*group) for group in enumerate(groups)))
  )
  words = jax.tree.map(lambda a: jnp.concatenate([a] * len(groups)), words)
  found = sprint.teacher(
    frozen['teacher'], x, t, words, features=tuple(settings.blocks)
  ).features
  split = [jnp.split(f, len(groups)) for f in found]
  return list(zip(*split))
