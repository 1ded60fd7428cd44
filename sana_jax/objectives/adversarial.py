"""Adversarial loss of generator and discriminator in one backward pass.

    w * (-mean D'(fake)) + hinge(D(real), D(fake'))

where a prime stops the gradient: the first term trains only the generator of
`fake`, the second only D. One backward pass thus gives each player the gradient
of a separate pass, and each has its own optimizer. (pix2pix and VQGAN alternate
on one batch; VQGAN also weights the first term by a ratio of gradient norms,
where `w` is a number of the config.)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.typing import Array, Float, Params


def both_players(
  discriminator: nn.Module,
  params: Params,
  real: Float[Array, 'b y x c'],
  fake: Float[Array, 'b y x c'],
  weight: Float[Array, ''] | float,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """The sum above, and both unweighted terms for logging."""
  score = lambda params, images: discriminator.apply({'params': params}, images)
  still = jax.lax.stop_gradient
  gan = -jnp.mean(score(still(params), fake))
  loss = hinge(score(params, real), score(params, still(fake)))
  return weight * gan + loss, {'gan': gan, 'discriminator': loss}


def hinge(
  real: Float[Array, '*b'], fake: Float[Array, '*f']
) -> Float[Array, '']:
  """Hinge loss of the discriminator: real scores above 1, fake below -1."""
  return (jnp.mean(nn.relu(1 - real)) + jnp.mean(nn.relu(1 + fake))) / 2
