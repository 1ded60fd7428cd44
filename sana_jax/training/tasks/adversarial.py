"""A discriminator that is trained along, in the one step of the one loop.

    w * (-mean D'(fake)) + hinge(D(real), D(fake'))

where a prime stops the gradient: the first term moves only who made `fake`, the
second only D. So one backward pass gives each player the gradient that it would
have in a pass of its own, and both move at once. (pix2pix and VQGAN take turns
on one batch, with two optimizers; VQGAN also weighs the first term by a ratio
of gradient norms, where `w` is a number of the config.)
"""

import jax
import jax.numpy as jnp

from sana_jax.models import patchgan
from sana_jax.typing import Array, Float, Params


def both_players(
  discriminator: patchgan.PatchGAN, params: Params,
  real: Float[Array, 'b y x c'], fake: Float[Array, 'b y x c'],
  weight: Float[Array, ''] | float,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """The sum above, and both of its terms, unweighted, for the log."""
  score = lambda params, images: discriminator.apply(
    {'params': params}, images)
  still = jax.lax.stop_gradient
  gan = -jnp.mean(score(still(params), fake))
  loss = patchgan.hinge(score(params, real), score(params, still(fake)))
  return weight * gan + loss, {'gan': gan, 'discriminator': loss}
