"""Losses of latent adversarial diffusion distillation (LADD), on logits.

The discriminator scores noised latents through a frozen teacher. Its fakes are
generated latents and real ones with another caption (arXiv:2403.12015;
SANA-Sprint, 2503.09641, 3.3).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sana_jax.objectives.adversarial import hinge
from sana_jax.typing import Array, Float


class AdversarialLoss(NamedTuple):
  """Losses of both players.

  Attributes:
    generator: logits of fakes -> loss.
    discriminator: (logits of real ones, of fakes) -> loss. There may be another
      number of fakes than of real ones.
  """

  generator: Callable[[Array], Array]
  discriminator: Callable[[Array, Array], Array]


def hinge_generator(fake: Float[Array, '*b']) -> Float[Array, '']:
  """Generator's loss beside the hinge: -mean of the logits."""
  return -jnp.mean(fake)


def cross_entropy_generator(fake: Float[Array, '*b']) -> Float[Array, '']:
  """Non-saturating loss: cross entropy of fakes labelled as real."""
  return jnp.mean(jax.nn.softplus(-fake))


def cross_entropy(
  real: Float[Array, '*b'], fake: Float[Array, '*f']
) -> Float[Array, '']:
  """Cross entropy of real ones plus that of fakes, not their mean."""
  return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


LOSSES = {
  'hinge': AdversarialLoss(hinge_generator, hinge),
  'cross_entropy': AdversarialLoss(cross_entropy_generator, cross_entropy),
}


def gradient_penalty(
  score: Callable[[Sequence[Array]], Array],
  features: Sequence[Float[Array, 'b _ d']],
) -> Float[Array, '']:
  """R1 penalty on the inputs of the heads (arXiv:1801.04406).

  Mean over heads and examples of |d(sum of logits) / d(features)|^2, in
  float32.
  SANA-Sprint weights it by 1e-5, if it is used, without the factor 1/2.

  Args:
    score: features -> logits; no head depends on another's features.
    features: those of real latents.
  """
  gradients = jax.grad(lambda x: jnp.sum(score(x)))(tuple(features))
  squares = [
    jnp.mean(jnp.sum(g.astype(jnp.float32) ** 2, axis=(1, 2)))
    for g in gradients
  ]
  return sum(squares) / len(squares)


def misaligned(latents: Float[Array, 'b *p c']) -> Float[Array, 'b *p c']:
  """Latents of the previous example, for the captions in place.

  A batch of one has no others: its pair is right.
  """
  return jnp.roll(latents, 1, axis=0)
