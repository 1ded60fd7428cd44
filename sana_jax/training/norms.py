"""Gradient norms by part of the model, to find exploding or inactive blocks."""

import collections

import jax
import jax.numpy as jnp

from sana_jax.optim.came import is_stacked
from sana_jax.typing import Array, PyTree


def by_part(grads: PyTree, name: str) -> dict[str, Array]:
  """Euclidean norms in float32; their squares add up to the total's.

  `name/block` has one for each block of the stack, [depth]; `name/PART` is a
  scalar for each part of the model that is not stacked, such as `head`.
  """
  squares = collections.defaultdict(list)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    stacked = is_stacked(path)
    part = jax.tree_util.keystr(path[:1], simple=True)
    if stacked:
      part = 'block' if part in ('blocks', 'layers') else f'{part}_block'
    # One pass over the sharded leaf; for a stack, all axes but the first.
    axes = tuple(range(int(stacked), leaf.ndim))
    squares[f'{name}/{part}'].append(
      jnp.sum(jnp.square(leaf.astype(jnp.float32)), axes)
    )
  return {part: jnp.sqrt(sum(parts)) for part, parts in squares.items()}
