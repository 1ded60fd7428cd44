"""Sharding rules of parameters: patterns of paths with a spec each.

A table is a sequence of `(pattern, spec)`. The pattern is a regular expression
that must match a parameter's whole path ('blocks/query/kernel'), the spec names
a mesh axis (or a tuple of them, or None) for each leading axis of the array.
Tables are total and exact: each parameter is matched by exactly one pattern and
each pattern matches something, so the order of rows never matters and a renamed
parameter cannot silently get a default. Mesh axes that a mesh lacks count as 1,
so that one table applies to every mesh.
"""

import collections
from collections.abc import Iterator, Sequence
import math
import re

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
import optax

from sana_jax.errors import UserError
from sana_jax.sharding.mesh import AXES
from sana_jax.tree import name_of
from sana_jax.typing import PyTree

Table = Sequence[tuple[str, tuple]]


class RuleError(UserError):
  """The table does not match every parameter once, or does not fit the mesh."""


def shardings(
  params: PyTree, table: Table, mesh: Mesh | AbstractMesh
) -> PyTree:
  """A NamedSharding for each leaf, by the one pattern that matches its path.

  Leaves need only a shape (arrays or ShapeDtypeStructs). Raises one RuleError
  that lists every problem on its own line.
  """
  specs = dict(table)
  unused, sizes = set(specs), collections.defaultdict(list)
  problems = [
    f'pattern {pattern!r} is in the table twice'
    for pattern in specs
    if sum(p == pattern for p, _ in table) > 1
  ]

  def leaf_sharding(path, leaf):
    name = name_of(path)
    hits = [p for p in specs if re.fullmatch(p, name)]
    unused.difference_update(hits)
    if len(hits) != 1:
      problems.append(f'{name} {leaf.shape}: {len(hits)} patterns match {hits}')
      return None
    spec = specs[hits[0]]
    problems.extend(
      f'{name} {leaf.shape}: {p}' for p in _misfits(leaf.shape, spec, mesh)
    )
    for size, entry in zip(leaf.shape, spec):
      if len(axes := _axes(entry)) == 1:
        sizes[axes[0]].append((size, name))
    return NamedSharding(mesh, _present(spec, mesh))

  tree = jax.tree_util.tree_map_with_path(leaf_sharding, params)
  problems += _undivided(sizes, mesh)
  problems += [f'pattern {p!r} matches no parameter' for p in sorted(unused)]
  if problems:
    raise RuleError('\n'.join(problems))
  return tree


def state_shardings(
  tx: optax.GradientTransformation,
  params: PyTree,
  param_shardings: PyTree,
  mesh: Mesh | AbstractMesh,
) -> PyTree:
  """Shardings for `tx.init(params)`: moments are sharded like their parameter.

  Everything else is replicated: counts, and the row and column statistics of
  factored optimizers (four vectors per matrix; the axis of a statistic is
  ambiguous for a square matrix). If an optimizer has a NamedTuple for a
  parameter, this applies to each of its fields: bytes are sharded like the
  parameter, their ranges are replicated. Without this, `jax.jit(tx.init)`
  silently replicates every moment on every chip.
  """
  everywhere = NamedSharding(mesh, jax.P())
  shapes = jax.eval_shape(tx.init, params)

  def lie_alike(kept, param, sharding):
    # An optax.MaskedNode, for another optimizer's parameter, has no leaves.
    return jax.tree.map(
      lambda x: sharding if x.shape == param.shape else everywhere, kept
    )

  return optax.tree.map_params(
    tx,
    lie_alike,
    shapes,
    params,
    param_shardings,
    transform_non_params=lambda _: everywhere,
    is_leaf=lambda x: isinstance(x, tuple) and hasattr(x, '_fields'),
  )


def _axes(entry) -> tuple[str, ...]:
  """A spec's entry (None, a name or a tuple of names) as a tuple of names."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def _misfits(
  shape: tuple[int, ...],
  spec: tuple,
  mesh: Mesh | AbstractMesh,
) -> list[str]:
  """Problems of sharding an array of `shape` by `spec` on `mesh`."""
  if len(spec) > len(shape):
    return [f'{spec} has more axes']
  misfits = []
  for size, entry in zip(shape, spec):
    axes = _axes(entry)
    if unknown := [a for a in axes if a not in AXES]:
      misfits.append(f'{unknown[0]!r} is no mesh axis ({", ".join(AXES)})')
    ways = math.prod(mesh.shape.get(a, 1) for a in axes)
    if size % ways and len(axes) > 1:  # For one axis, see _undivided.
      misfits.append(f'{size} is not divisible by {" x ".join(axes)}={ways}')
  return misfits


def _undivided(
  sizes: dict[str, list[tuple[int, str]]],
  mesh: Mesh | AbstractMesh,
) -> Iterator[str]:
  """Problems of each mesh axis that does not divide all (size, name)."""
  for axis, split in sizes.items():
    ways = mesh.shape.get(axis, 1)
    if wrong := [f'{n} of {name}' for n, name in split if n % ways]:
      more = f' and {len(wrong) - 2} more' if len(wrong) > 2 else ''
      fits = math.gcd(ways, *(n for n, _ in split))
      yield (
        f'{axis}={ways} does not divide {", ".join(wrong[:2])}{more}; set '
        f'mesh.{axis}={fits} and mesh.data=-1'
      )


def _present(spec: tuple, mesh: Mesh | AbstractMesh) -> jax.P:
  """The spec without the axes that this mesh lacks."""
  kept = [tuple(a for a in _axes(entry) if a in mesh.shape) for entry in spec]
  return jax.P(*(axes[0] if len(axes) == 1 else axes or None for axes in kept))
