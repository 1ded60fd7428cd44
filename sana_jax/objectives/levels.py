"""Sums over parts of an interval: the loss by noise level.

A batch has few examples of each noise level, so one step's means are noise. The
step returns sums and counts; the host adds them up between two log lines.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from sana_jax.typing import Array, Float

NUM_LEVELS = 8


class Levels(NamedTuple):
  """Of values at levels in [0, 1], by equal parts of that interval.

  Sums over the batch, so that Levels of two batches add up.
  """

  sums: Any  # Of the values, [levels].
  counts: Any  # How many there were, [levels].


def by_level(
  values: Float[Array, 'b'],
  level: Float[Array, 'b'],
  num_levels: int = NUM_LEVELS,
) -> Levels:
  """`values` by their `level` in [0, 1]."""
  index = jnp.clip(jnp.int32(level * num_levels), 0, num_levels - 1)
  inside = index[:, None] == jnp.arange(num_levels)
  # A sum and no product: those may be in less than float32.
  return Levels(
    jnp.sum(jnp.where(inside, values[:, None], 0), axis=0),
    jnp.sum(inside, axis=0, dtype=jnp.float32),
  )
