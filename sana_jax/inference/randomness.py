"""Random numbers of pictures, determined by seed and number only."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sana_jax import fields
from sana_jax.errors import UserError
from sana_jax.printable import counted
from sana_jax.typing import Array, Float, Int, Keys

_COUNTER = fields.integer(0, 2**31 - 1)
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
  if numbers is None:
    numbers = list(range(num_images)) * prompts
  seeds = _counters('seed', seeds, prompts, 'prompt')
  numbers = _counters('numbers', numbers, count, 'image')
  return jnp.repeat(jnp.asarray(seeds), num_images), jnp.asarray(numbers)


def _counters(name, values, count, of):
  """Plain whole numbers; UserError for a wrong count or value."""
  plain = [*map(fields.plain, values)]
  if len(plain) != count:
    raise UserError(
      f'{name} has {counted(len(plain), "entry", "entries")} for '
      f'{counted(count, of)}.',
      key=name,
    )
  for value in plain:
    fields.check('The call', {name: value}, {name: _COUNTER})
  return plain


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
