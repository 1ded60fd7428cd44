"""Norms of a gradient by part of the model: which block explodes, or sleeps."""

import collections

import jax
import jax.numpy as jnp

from sana_jax.optim.came import is_stacked
from sana_jax.typing import Array, PyTree


def by_part(grads: PyTree, name: str) -> dict[str, Array]:
  """Euclidean norms in float32, whose squares add up to the whole's.

  `name/block` has one for each block of the stack, [depth]; `name/PART` is a
  scalar for each part of the model that is not stacked, such as `head`.
  """
  squares = collections.defaultdict(list)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    stacked = is_stacked(path)
    part = jax.tree_util.keystr(path[:1], simple=True)
    if stacked:
      part = 'block' if part in ('blocks', 'layers') else f'{part}_block'
    # One pass over the leaf where it lies; of a stack, all axes but the first.
    axes = tuple(range(int(stacked), leaf.ndim))
    squares[f'{name}/{part}'].append(
      jnp.sum(jnp.square(leaf.astype(jnp.float32)), axes)
    )
  return {part: jnp.sqrt(sum(parts)) for part, parts in squares.items()}
