"""Nested dicts and pytrees, addressed by the names of their leaves.

A name is the joined path of keys, such as 'blocks/qkv/kernel' for parameters
and 'optimizer.learning_rate' for configs.
"""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from sana_jax.typing import PyTree


def name_of(path: tuple[Any, ...], separator: str = '/') -> str:
  """Name of the leaf at a key path of JAX."""
  return jax.tree_util.keystr(path, simple=True, separator=separator)


def leaves(tree: PyTree, separator: str = '/') -> dict[str, Any]:
  """Leaves of a pytree by name, in JAX's order."""
  return {
    name_of(path, separator): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def flatten(
  tree: Any, separator: str = '/', *, empty: bool = False
) -> dict[str, Any]:
  """Values of nested dicts by name, in the order of the dicts.

  Lists and None are values. Empty dicts are values if `empty`, and are omitted
  otherwise. A tree that is not a dict has the name ''.
  """
  if not isinstance(tree, Mapping | ConfigDict) or (empty and not tree):
    return {'': tree}
  out = {}
  for key, value in tree.items():
    for inner, leaf in flatten(value, separator, empty=empty).items():
      out[f'{key}{separator}{inner}' if inner else key] = leaf
  return out


def unflatten(
  values: Mapping[str, Any], separator: str = '/'
) -> dict[str, Any]:
  """The nested dicts whose leaves have these names.

  Raises:
    ValueError: a name is that of a leaf and of a group of leaves.
  """
  paths = {name: name.split(separator) for name in values}
  groups = {
    separator.join(path[:depth])
    for path in paths.values()
    for depth in range(1, len(path))
  }
  if both := sorted(groups & values.keys()):
    raise ValueError(f'{both[0]} is a leaf and has leaves')
  tree = {}
  for name, (*parents, last) in paths.items():
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = values[name]
  return tree
