"""Random numbers of pictures, determined by seed and number only."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.errors import UserError
from sana_jax.typing import Array, Float, Int, Keys

_SAMPLER = 2**31 - 1  # A counter that no element of the noise uses.


def of_pictures(
  prompts: int,
  seed: int | Sequence[int],
  num_images: int,
  numbers: Sequence[int] | None = None,
) -> tuple[Int[Array, 'b'], Int[Array, 'b']]:
  """Seed and number of each picture of a call, see `Pipeline.draw`."""
  count = prompts * num_images
  seeds = [seed] * prompts if np.ndim(seed) == 0 else list(seed)
  if len(seeds) != prompts:
    raise UserError(
      f'seed has {len(seeds)} entries for {prompts} prompts.', key='seed'
    )
  if wrong := [s for s in seeds if not 0 <= s < 2**31]:
    raise UserError(
      f'seed is {wrong[0]}; it must lie in 0 to {2**31 - 1}.',
      key='seed',
      value=wrong[0],
      allowed=f'0 to {2**31 - 1}',
    )
  if numbers is None:
    numbers = list(range(num_images)) * prompts
  if len(numbers) != count:
    raise UserError(
      f'numbers has {len(numbers)} entries for {count} images.', key='numbers'
    )
  return jnp.repeat(jnp.asarray(seeds), num_images), jnp.asarray(numbers)


@functools.partial(jax.jit, static_argnames='shape')
def draw_noise(seeds, numbers, shape) -> Float[Array, 'b *p c']:
  """Standard normal noise of each (seed, number), independent of the others."""
  draw = lambda seed, number: jax.random.normal(_key(seed, number), shape)
  return jax.vmap(draw)(seeds, numbers)


@jax.jit
def draw_keys(seeds, numbers) -> Keys:
  """Keys for samplers that draw noise, one for each (seed, number)."""
  draw = lambda seed, number: jax.random.fold_in(_key(seed, number), _SAMPLER)
  return jax.vmap(draw)(seeds, numbers)


def _key(seed, number):
  return jax.random.fold_in(jax.random.key(seed), number)
