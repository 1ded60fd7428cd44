"""Kernels on a mesh: each device runs them on its own part.

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

# What may lie on which axes of a mesh.
BATCH, SEQUENCE, TENSOR = ('data', 'fsdp'), ('sequence',), ('tensor',)


def axes_of(size: int, wanted: Sequence[str]) -> tuple[str, ...]:
  """Those axes of the mesh in context over which an axis of `size` is split.

  None where they do not divide it, or where there is no mesh.
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
  """f on each device's part, by specs as `jax.shard_map` takes them.

  Without a mesh it is f itself; where nothing is split, every device does all.
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
  """Over how many devices these axes of the mesh in context split."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape[a] for a in axes)


def with_neighbours(x: jax.Array, count: int, axes: Sequence[str]) -> jax.Array:
  """x [b y x c] with `count` rows more on each side, zeros at the edge.

  Inside of `on_mesh`, where rows are split over the axis in `axes`; x itself
  where they are not.
  """
  if not axes:
    return x
  (axis,), size = axes, splits(axes)
  send = functools.partial(jax.lax.ppermute, axis_name=axis)
  above = send(x[:, -count:], perm=[(i, i + 1) for i in range(size - 1)])
  below = send(x[:, :count], perm=[(i + 1, i) for i in range(size - 1)])
  return jnp.concatenate([above, x, below], axis=1)
