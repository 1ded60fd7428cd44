"""Strict weight maps: tables of rules between a file's tensors and ours.

A rule pairs a file's key with our parameter's path, both as templates in which
`{i}` stands for an integer. A placeholder found in both is copied; one that
only the key has runs over the leading axis of our parameter, where `nn.scan`
stacks its layers. Both directions are exact: each tensor is used, each
parameter filled, or one error lists everything that is wrong.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from sana_jax.errors import UserError


class WeightError(UserError):
  """The file and the model do not hold the same parameters."""


class Transform(NamedTuple):
  """How one tensor is stored: from the file's layout to ours, and back."""

  load: Callable[[np.ndarray], np.ndarray]
  save: Callable[[np.ndarray], np.ndarray]


IDENTITY = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(np.transpose, np.transpose)  # (out, in) <-> (in, out)
CONV = Transform(  # OIHW <-> HWIO
  lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
DEPTHWISE = Transform(  # (c, 1, k, k) <-> (k, k, c)
  lambda x: x[:, 0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[:, None])
POINTWISE = Transform(  # (out, in, 1, 1) <-> (in, out)
  lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])


class Rule(NamedTuple):
  """One line of a table: file key, our path ('/'-joined), storage."""

  key: str
  path: str
  transform: Transform = IDENTITY

  def stacked(self) -> list[str]:
    """Placeholders that run over the parameter's leading axis."""
    return [n for n in _names(self.key) if n not in _names(self.path)]


def load(rules: Sequence[Rule], tensors: Mapping[str, np.ndarray], shapes):
  """Our parameters, from a file's tensors.

  Args:
    rules: the table; rules that match nothing are allowed.
    tensors: key -> array; every key must be matched by exactly one rule.
    shapes: nested dict of anything with a `.shape`, the model's parameters.

  Raises:
    WeightError: lists unused keys, unfilled parameters and wrong shapes.
  """
  wanted = flatten(shapes)
  problems, found = [], {}
  for key in tensors:
    matches = _match_key(rules, key)
    if len(matches) != 1:
      problems.append(f'{key}: {len(matches)} rules name it')
    for path, index, transform in matches:
      found.setdefault(path, []).append((index, key, transform))
  out = {}
  for path, leaf in wanted.items():
    parts = found.pop(path, [])
    if wrong := _misfits(tuple(leaf.shape), parts, tensors):
      problems += [f'{path} {tuple(leaf.shape)}: {what}' for what in wrong]
    else:
      out[path] = _assemble(parts, tensors)
  problems += [f'{key}: the model has no {path}' for path, parts in
               found.items() for _, key, _ in parts]
  if problems:
    raise WeightError(
      'The weights do not fit the model:\n  ' + '\n  '.join(sorted(problems)))
  return unflatten(out)


def save(rules: Sequence[Rule], params) -> dict[str, np.ndarray]:
  """The file's tensors, from our parameters; the inverse of `load`.

  Views where possible: a writer that needs contiguous memory copies.
  """
  out, problems = {}, []
  for path, leaf in flatten(params).items():
    match = _match_path(rules, path, np.shape(leaf))
    if match is None:
      problems.append(f'{path} {np.shape(leaf)}: no rule names it')
      continue
    rule, values = match
    stacked = rule.stacked()
    layers = enumerate(leaf) if stacked else [(None, leaf)]
    for i, layer in layers:
      names = {**values, **({stacked[0]: i} if stacked else {})}
      array = rule.transform.save(np.asarray(layer))
      out[rule.key.format(**names)] = array
  if problems:
    raise WeightError('No rule for:\n  ' + '\n  '.join(problems))
  return out


def flatten(tree) -> dict[str, Any]:
  """Leaves by their '/'-joined path."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(p, simple=True, separator='/'): x
          for p, x in leaves}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """The nested dict of `flatten`."""
  tree = {}
  for path, leaf in leaves.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def _names(template: str) -> list[str]:
  return re.findall(r'{(\w+)}', template)


@functools.cache
def _pattern(template: str) -> re.Pattern:
  parts = re.split(r'{(\w+)}', template)
  for i, part in enumerate(parts):
    parts[i] = rf'(?P<{part}>\d+)' if i % 2 else re.escape(part)
  return re.compile(''.join(parts))


def _match_key(rules, key):
  """(path, index on the stacked axis or None, transform) of each match."""
  out = []
  for rule in rules:
    if match := _pattern(rule.key).fullmatch(key):
      values = {name: int(v) for name, v in match.groupdict().items()}
      stacked = rule.stacked()
      index = values[stacked[0]] if stacked else None
      out.append((rule.path.format(**values), index, rule.transform))
  return out


def _match_path(rules, path, shape):
  for rule in rules:
    match = _pattern(rule.path).fullmatch(path)
    if match and not (rule.stacked() and not shape):
      return rule, {name: int(v) for name, v in match.groupdict().items()}
  return None


def _misfits(shape, parts, tensors):
  """What is wrong with the (index, key, transform) found for one parameter."""
  if not parts:
    return ['the file has no tensor for it']
  indices = [index for index, _, _ in parts]
  layers, layer = ([None], shape) if None in indices else (
    list(range(*shape[:1])), shape[1:])
  if missing := sorted(set(layers) - set(indices)):
    return [f'layers missing in {parts[0][1]}: {missing}']
  if surplus := [key for index, key, _ in parts
                 if index not in layers or indices.count(index) > 1]:
    return [f'too many tensors: {", ".join(sorted(surplus))}']
  blank = np.broadcast_to(np.float32(0), layer)
  return [
    f'{tensors[key].shape} in {key}, where {want} is needed'
    for _, key, transform in parts
    if tensors[key].shape != (want := transform.save(blank).shape)]


def _assemble(parts, tensors):
  """One tensor, or a stack of them along a leading axis."""
  if parts[0][0] is None:
    _, key, transform = parts[0]
    return transform.load(tensors[key])
  return np.stack([
    transform.load(tensors[key])
    for _, key, transform in sorted(parts, key=lambda part: part[0])])
