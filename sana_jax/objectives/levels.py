"""Sums per noise-level bin, for the loss by noise level.

A batch has few examples of each noise level, so the means of one step are
noisy. The step returns sums and counts; the host accumulates them between two
log lines.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from sana_jax.typing import Array, Float

NUM_LEVELS = 8


class Levels(NamedTuple):
  """Sums and counts of values at levels in [0, 1], in equal bins.

  They are sums over the batch, so that Levels of two batches can be added.
  """

  sums: Any  # Of the values, [levels].
  counts: Any  # How many there were, [levels].


def by_level(
  values: Float[Array, 'b'],
  level: Float[Array, 'b'],
  num_levels: int = NUM_LEVELS,
) -> Levels:
  """Levels of `values` by their `level` in [0, 1]."""
  index = jnp.clip(jnp.int32(level * num_levels), 0, num_levels - 1)
  inside = index[:, None] == jnp.arange(num_levels)
  # Not a matmul, which may be in less than float32.
  return Levels(
    jnp.sum(jnp.where(inside, values[:, None], 0), axis=0),
    jnp.sum(inside, axis=0, dtype=jnp.float32),
  )
