"""Kernels on a mesh: each device runs them on its own shard.

XLA cannot split a kernel by itself, so every call goes through `shard_map`.
The mesh is the one in context (`jax.set_mesh`); axes have the names of
sana_jax.sharding. Gradients are defined outside of it: JAX would add a second
all-reduce.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

# Mesh axes that each array axis may be sharded over.
BATCH, SEQUENCE, TENSOR = ('data', 'fsdp'), ('sequence',), ('tensor',)


def axes_of(size: int, wanted: Sequence[str]) -> tuple[str, ...]:
  """Axes of the current mesh over which an array axis of `size` is sharded.

  Empty if they do not divide it, or if there is no mesh.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return ()
  free = {
    a
    for a, kind in zip(mesh.axis_names, mesh.axis_types)
    if kind == AxisType.Auto
  }
  axes = tuple(a for a in wanted if a in free and mesh.shape[a] > 1)
  return axes if size % math.prod(mesh.shape[a] for a in axes) == 0 else ()


def on_mesh(f: Callable, in_specs: Any, out_specs: Any) -> Callable:
  """Wraps f to run on each device's shard, by specs as in `jax.shard_map`.

  Without a mesh it is f itself; where nothing is sharded, f is replicated.
  """
  mesh = jax.sharding.get_abstract_mesh()
  auto = (
    [
      a
      for a, kind in zip(mesh.axis_names, mesh.axis_types)
      if kind == AxisType.Auto
    ]
    if not mesh.empty
    else []
  )
  if not auto:
    return f
  return jax.shard_map(
    f,
    in_specs=tuple(in_specs),
    out_specs=out_specs,
    axis_names=set(auto),
    check_vma=False,
  )


def splits(axes: Sequence[str]) -> int:
  """Number of shards along these axes of the current mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape[a] for a in axes)


def with_neighbours(x: jax.Array, count: int, axes: Sequence[str]) -> jax.Array:
  """Adds `count` neighbouring rows on each side of x [b y x c]; zeros at edges.

  Called inside `on_mesh`, where rows are sharded over the axis in `axes`;
  returns x itself where they are not.
  """
  if not axes:
    return x
  (axis,), size = axes, splits(axes)
  send = functools.partial(jax.lax.ppermute, axis_name=axis)
  above = send(x[:, -count:], perm=[(i, i + 1) for i in range(size - 1)])
  below = send(x[:, :count], perm=[(i + 1, i) for i in range(size - 1)])
  return jnp.concatenate([above, x, below], axis=1)
