"""SCM, SANA-Sprint's sampler: predicted data, with fresh noise in each step.

  x' = s (cos t' data + sin t' noise)                         (2503.09641, 3.2)

The formula is that of TrigFlow, on which diffusers' SCMScheduler operates; the
step is the same on any path. A network distilled for it predicts the data of
the whole trajectory at once, so that one to four steps suffice. With any other
network it samples too, with more error in few steps than Euler's method.

Unlike in diffusers, the noise of an example comes from its own key.
"""

import dataclasses
from typing import NamedTuple

import jax

from sana_jax.diffusion.paths import Prediction
from sana_jax.diffusion.samplers.base import Interval
from sana_jax.errors import UserError
from sana_jax.typing import Array, Float, Keys


@dataclasses.dataclass(frozen=True)
class Scm:
  """One prediction a step; stochastic, except in the step that ends at 0."""

  class Carry(NamedTuple):
    x: Float[Array, '*x']
    data: Float[Array, '*x']  # As last predicted, scaled as latents.

  def init(self, x: Float[Array, '*x'], rng: Keys | None) -> Carry:
    if rng is None:
      raise UserError(
        'The sampler scm draws noise in its steps; give rng, one key for each '
        'image.',
        key='rng',
      )
    return self.Carry(x, x)

  def step(
    self,
    carry: Carry,
    prediction: Prediction,
    at: Interval,
    rng: Keys,
  ) -> Carry:
    data = prediction.data()
    x = prediction.path.interpolate(data, fresh_noise(rng, data), at.s)
    return self.Carry(x, data)


def fresh_noise(rng: Keys, like: Float[Array, '*x']) -> Float[Array, '*x']:
  """Standard normal noise of one step, an example from each key."""
  draw = lambda key: jax.random.normal(key, like.shape[1:], like.dtype)
  return jax.vmap(draw)(rng)
