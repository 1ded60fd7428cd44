"""Strict weight maps: tables of rules between a file's tensors and parameters.

A rule pairs a file's key with our parameter's path, both templates in which
`{i}` is an integer. A placeholder in both is copied; one only in the key is the
index on the leading axis of our parameter, where `nn.scan` stacks its layers.
Each tensor must be used and each parameter filled, in both directions; one
error lists all violations.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import functools
import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sana_jax.errors import UserError
from sana_jax.printable import counted, printable
from sana_jax.tree import leaves, unflatten
from sana_jax.typing import DType, PyTree
from sana_jax.weights import placing
from sana_jax.weights.tensors import as_stored, Stored
from sana_jax.weights.transforms import IDENTITY, Transform

# Excludes 8-bit types, which need a scale that no supported file has.
_FLOATING = ('float64', 'float32', 'float16', 'bfloat16')
_MOST_TENSORS = 20_000  # Limit of a model; the largest has under 2,000.
_LISTED = 40  # Problems in an error.
_NAME = 200  # Characters of a problem.


class WeightError(UserError):
  """The file and the model do not have the same parameters."""


class Rule(NamedTuple):
  """One line of a table: file key, our path ('/'-joined), storage."""

  key: str
  path: str
  transform: Transform = IDENTITY

  def under(self, collection: str) -> 'Rule':
    """Rule for a tree that contains our tree as `collection`."""
    return self._replace(path=f'{collection}/{self.path}')

  def stacked(self) -> list[str]:
    """Placeholders that index the parameter's leading axis."""
    return [n for n in _names(self.key) if n not in _names(self.path)]


def load(
  rules: Sequence[Rule],
  tensors: Mapping[str, np.ndarray | Stored],
  shapes: PyTree,
  dtype: DType | None = None,
  shardings: PyTree | None = None,
  only: str = '',
) -> PyTree:
  """Our parameters, from a file's tensors, each of which is read once.

  Args:
    rules: the table; rules without a match are allowed.
    tensors: key -> tensor; every key must match exactly one rule.
    shapes: nested dict of ShapeDtypeStructs, the model's parameters.
    dtype: dtype of the floating parameters, which are then JAX arrays; without
      it they are NumPy arrays in the file's dtype.
    shardings: sharding of each parameter, in the structure of `shapes`.
    only: module whose parameters are read; the others are only checked.

  Raises:
    WeightError: lists unused keys, unfilled parameters, wrong shapes and wrong
      dtypes, before anything is read.
  """
  sources = match(rules, tensors, shapes)
  where = leaves(shardings) if shardings is not None else {}
  out = {}
  for path, leaf in leaves(shapes).items():
    if only and only not in path.split('/'):
      continue
    if dtype is None:
      out[path] = placing.on_host(leaf.shape, *sources[path])
    else:
      out[path] = placing.on_devices(
        leaf.shape,
        *sources[path],
        placing.target_dtype(leaf, dtype),
        where.get(path),
      )
  return unflatten(out)


def match(
  rules: Sequence[Rule],
  tensors: Mapping[str, np.ndarray | Stored],
  shapes: PyTree,
) -> dict[str, tuple[list[placing.Part], bool]]:
  """Tensors of each parameter in order, and whether they are its layers.

  Raises WeightError as `load` does.
  """
  tensors = as_stored(tensors)
  if len(tensors) > _MOST_TENSORS:
    raise WeightError(
      f'There are {len(tensors):,} tensors; a model has at '
      f'most {_MOST_TENSORS:,}.',
      key='tensors',
      value=len(tensors),
      allowed=f'{_MOST_TENSORS} or fewer',
    )
  wanted = leaves(shapes)
  problems, found, out = [], {}, {}
  for key in tensors:
    matches = _match_key(rules, key)
    if len(matches) != 1:
      problems.append(f'{key}: {len(matches)} rules name it')
    for path, index, transform in matches:
      found.setdefault(path, []).append((index, key, transform))
  for path, leaf in wanted.items():
    parts = found.pop(path, [])
    if wrong := _misfits(leaf, parts, tensors):
      problems += [f'{path} {tuple(leaf.shape)}: {what}' for what in wrong]
    else:
      out[path] = _sources(parts, tensors)
  problems += [
    f'{key}: the model has no {path}'
    for path, parts in found.items()
    for _, key, _ in parts
  ]
  if wanted and tensors and not out:
    raise WeightError(
      f'The weights are of another model: none of the '
      f'{counted(len(tensors), "tensor")}, '
      f'such as {printable(min(tensors), _NAME)}, matches.',
      key='tensors',
      value=sorted(tensors)[:1],
    )
  report('The weights do not fit the model', sorted(problems))
  return out


def save(rules: Sequence[Rule], params) -> dict[str, np.ndarray]:
  """The file's tensors, from our parameters; the inverse of `load`.

  They are views where possible, and need not be contiguous.
  """
  out, problems = {}, []
  for path, leaf in leaves(params).items():
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
  report('No rule for', problems)
  return out


def report(what: str, problems: Sequence[str]) -> None:
  """Raises WeightError with a line per problem, if there are any."""
  if problems:
    more = len(problems) - _LISTED
    lines = [printable(problem, _NAME) for problem in problems[:_LISTED]] + (
      [f'and {more} more'] if more > 0 else []
    )
    raise WeightError(f'{what}:\n  ' + '\n  '.join(lines), value=list(problems))


def _names(template: str) -> list[str]:
  return re.findall(r'{(\w+)}', template)


@functools.cache
def template_pattern(template: str) -> re.Pattern:
  """Regular expression of a template; `{i}` is a group of digits."""
  parts = re.split(r'{(\w+)}', template)
  for i, part in enumerate(parts):
    parts[i] = rf'(?P<{part}>0|[1-9][0-9]{{0,5}})' if i % 2 else re.escape(part)
  return re.compile(''.join(parts))


def _match_key(rules, key):
  """(path, index on the stacked axis or None, transform) of each match."""
  out = []
  for rule in rules:
    if match := template_pattern(rule.key).fullmatch(key):
      values = {name: int(v) for name, v in match.groupdict().items()}
      stacked = rule.stacked()
      index = values[stacked[0]] if stacked else None
      out.append((rule.path.format(**values), index, rule.transform))
  return out


def _match_path(rules, path, shape):
  for rule in rules:
    match = template_pattern(rule.path).fullmatch(path)
    if match and not (rule.stacked() and not shape):
      return rule, {name: int(v) for name, v in match.groupdict().items()}
  return None


def _misfits(leaf, parts, tensors):
  """Problems of the (index, key, transform) that match one parameter."""
  shape = tuple(leaf.shape)
  if not parts:
    return ['the file has no tensor for it']
  indices = [index for index, _, _ in parts]
  layers, layer = (
    ([None], shape) if None in indices else (list(range(*shape[:1])), shape[1:])
  )
  counts = Counter(indices)
  if missing := sorted(set(layers) - set(indices)):
    return [f'layers missing in {parts[0][1]}: {missing}']
  if surplus := [
    key for index, key, _ in parts if index not in layers or counts[index] > 1
  ]:
    return [f'too many tensors: {", ".join(sorted(surplus))}']
  blank = np.broadcast_to(np.float32(0), layer)
  return [
    f'{tensors[key].shape} in {key}, where {want} is needed'
    for _, key, transform in parts
    if tensors[key].shape != (want := transform.save(blank).shape)
  ] + [
    f'{tensors[key].dtype} in {key}, where {_kind(leaf)} is needed'
    for _, key, _ in parts
    if _kind(tensors[key]) != _kind(leaf)
  ]


def _kind(leaf):
  if np.dtype(leaf.dtype).name in _FLOATING:
    return 'a floating dtype'
  whole = jnp.issubdtype(leaf.dtype, jnp.integer)
  return 'a whole number' if whole else str(leaf.dtype)


def _sources(parts, tensors):
  """Tensors in the order of the layers, and whether there are layers."""
  parts = sorted(parts, key=lambda part: part[0] or 0)
  return [
    placing.Part(tensors[key], transform) for _, key, transform in parts
  ], parts[0][0] is not None
