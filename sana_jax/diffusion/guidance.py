"""Classifier-free guidance as functions around a velocity.

  v = u + s (c - u)                                          (2207.12598, eq. 6)

Both predictions come from one call on a doubled batch, unconditional half
first, as in diffusers and NVlabs/Sana. NVlabs guides the noise prediction; that
is the same, because noise = x + (1 - t) v is affine in v. Guidance takes place
for s > 1 only (diffusers): at most 1, the model runs once, on the conditional.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sana_jax.diffusion.samplers.base import Velocity
from sana_jax.typing import Array, Float, PyTree

# (x [b ...], timestep [b], conditioning with leading axes b) -> v [b ...]
Model = Callable[[Array, Array, PyTree], Array]


def enabled(scale: float) -> bool:
  """Whether this scale doubles the batch."""
  return scale > 1


def combine(
    unconditional: Float[Array, '*x'], conditional: Float[Array, '*x'],
    scale: float,
) -> Float[Array, '*x']:
  """The guided prediction, in float32: bfloat16 would round the difference."""
  u, c = (a.astype(jnp.promote_types(a.dtype, jnp.float32))
          for a in (unconditional, conditional))
  return u + scale * (c - u)


def classifier_free(velocity: Velocity, scale: float) -> Velocity:
  """Guides a velocity that holds its own conditioning.

  Args:
    velocity: of the doubled batch [unconditional, conditional] where
      `enabled(scale)`, else of the plain batch. What it computes from the text
      once for all steps is its own affair.
    scale: a Python number.

  Returns:
    The velocity of the plain batch.
  """
  if not enabled(scale):
    return velocity

  def guided(x, timestep):
    both = velocity(jnp.concatenate([x, x]), timestep)
    return combine(*jnp.split(both, 2), scale)
  return guided


def guide(
    model: Model, conditional: PyTree, unconditional: PyTree, scale: float,
) -> Velocity:
  """Closes a model over its conditioning, guided where the scale asks for it.

  Args:
    model: see `Model`; its timestep has one entry an example.
    conditional: arrays with a leading batch axis.
    unconditional: the same structure and shapes; None will do for a scale of
      at most 1.
    scale: a Python number.
  """
  conditioning = conditional
  if enabled(scale):
    conditioning = jax.tree.map(
      lambda u, c: jnp.concatenate([u, c]), unconditional, conditional)

  def velocity(x, timestep):
    timestep = jnp.broadcast_to(timestep, x.shape[:1])
    return model(x, timestep, conditioning)
  return classifier_free(velocity, scale)
