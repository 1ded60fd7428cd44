"""Sharding constraints of activations, by three names, on the mesh in context.

Models call `constrain_tokens(x, grid)` after patchify and after every block.
Without this XLA may replicate the residual stream under FSDP ("Involuntary full
rematerialization" in its log).
"""

from collections.abc import Sequence
import math

import jax
from jax.sharding import AxisType

from sana_jax.sharding.mesh import BATCH_AXES
from sana_jax.typing import Array

NAMES = {'batch': BATCH_AXES, 'tokens': ('sequence',), 'width': ('tensor',)}


def constrain(x: Array, *names: str | None) -> Array:
  """`x`, sharded by one of 'batch', 'tokens', 'width' or None for each axis.

  The identity without a mesh (`jax.set_mesh`). Mesh axes that are missing,
  manual (inside `shard_map`) or do not divide the array's axis, such as the
  batch of one of a sampler, are left out.
  """
  if len(names) != x.ndim:
    raise ValueError(f'{len(names)} names for an array of shape {x.shape}')
  return _constrain(x, x.shape, names)


def constrain_tokens(x: Array, grid: Sequence[int]) -> Array:
  """Tokens `x` [b n d], laid out by batch and whole rows of their grid.

  Rows (frames of a video) are contiguous, and the grid's first axis is split
  where its size allows it. Parts of rows would be gathered by a convolution.
  """
  batch, _, width = x.shape
  return _constrain(x, (batch, grid[0], width), ('batch', 'tokens', None))


def _constrain(x, sizes, names):
  """Splits each axis where `sizes`, which count its units, can be divided."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  free = {
    a
    for a, kind in zip(mesh.axis_names, mesh.axis_types)
    if kind == AxisType.Auto
  }
  spec = []
  for size, name in zip(sizes, names):
    axes = tuple(a for a in NAMES[name] if a in free) if name else ()
    ways = math.prod(mesh.shape[a] for a in axes)
    spec.append(axes if axes and size % ways == 0 else None)
  if not any(spec):  # Inside a shard_map no constraint is allowed.
    return x
  return jax.lax.with_sharding_constraint(x, jax.P(*spec))
