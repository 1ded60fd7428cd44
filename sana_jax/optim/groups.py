"""Parameter groups by patterns of paths, with their own rate, decay and clip.

A text of entries separated by spaces, PATTERN:SETTING=NUMBER,...

  blocks/.*:rate_scale=0.1,weight_decay=0 .*/bias:weight_decay=0

The first pattern that matches a parameter's whole path counts; unmatched
parameters have the run's settings. Similar to `(regex, multiplier)` in
big_vision.
"""

from collections.abc import Callable, Sequence
import math
import re
from typing import NamedTuple

import jax
import optax

from sana_jax.errors import did_you_mean, UserError
from sana_jax.tree import leaves, name_of
from sana_jax.typing import PyTree

FORM = (
  'PATTERN:SETTING=NUMBER,... with spaces between such, where settings '
  'are rate_scale, weight_decay and clip_norm'
)
_REST = -1  # The label of parameters that no pattern matches.


class Group(NamedTuple):
  """Settings of the parameters matched by a pattern.

  Attributes:
    rate_scale: multiplies the learning rate.
    weight_decay: None for the run's.
    clip_norm: limit for the norm of this group's gradient, 0 for no limit; None
      to be clipped together with the others.
  """

  pattern: re.Pattern
  rate_scale: float = 1.0
  weight_decay: float | None = None
  clip_norm: float | None = None


def parse(text: str) -> tuple[Group, ...]:
  """The groups in order; UserError for an invalid text."""
  return tuple(map(_group, text.split()))


def _group(entry):
  pattern, _, settings = entry.rpartition(':')
  if not pattern:
    raise _wrong(entry, f'must be {FORM}')
  try:
    compiled = re.compile(pattern)
  except re.error as e:
    raise _wrong(entry, f'must begin with a regular expression ({e})') from e
  found = dict(_setting(entry, item) for item in settings.split(','))
  return Group(compiled, **found)


def _setting(entry, item):
  name, _, number = item.partition('=')
  known = Group._fields[1:]
  if name not in known:
    raise _wrong(
      entry,
      f'has the setting {name!r}{did_you_mean(name, known)}; '
      f'allowed are {", ".join(known)}',
    )
  try:
    value = float(number)
  except ValueError:
    value = math.nan
  if not 0 <= value < math.inf:
    raise _wrong(entry, f'has {name}={number}, which must be zero or more')
  return name, value


def _wrong(entry, problem):
  return UserError(
    f'config.optimizer.groups: {entry!r} {problem}.',
    key='optimizer.groups',
    value=entry,
    allowed=FORM,
  )


def labels(groups: Sequence[Group], params: PyTree) -> PyTree:
  """Index of each parameter's group; -1 for none."""

  def label(path, _):
    name = name_of(path)
    return next(
      (
        number
        for number, group in enumerate(groups)
        if group.pattern.fullmatch(name)
      ),
      _REST,
    )

  return jax.tree_util.tree_map_with_path(label, params)


def check(groups: Sequence[Group], params: PyTree) -> None:
  """Raises UserError for patterns that are no parameter's first match."""
  used = set(jax.tree.leaves(labels(groups, params)))
  unused = [
    group.pattern.pattern
    for number, group in enumerate(groups)
    if number not in used
  ]
  # optax.tree.map_params looks for moments with a tree that has no leaves.
  if used and unused:
    example = next(iter(leaves(params)))
    raise UserError(
      f'config.optimizer.groups: {", ".join(map(repr, unused))} matches no '
      'parameter that trains and that no pattern before it matches; patterns '
      f'match a whole path, such as {example!r}.',
      key='optimizer.groups',
      value=' '.join(unused),
      allowed='patterns of parameters',
    )


def make(
  groups: Sequence[Group],
  config,
  rate: optax.Schedule,
  optimizer: Callable[..., optax.GradientTransformation],
) -> optax.GradientTransformation:
  """Clipping, then the optimizer, with each group's settings.

  Groups without their own clip are clipped by one common norm. `tx.init` raises
  UserError for patterns that match nothing.

  Args:
    config: the complete config of the optimizer.
    rate: learning rate of the run.
    optimizer: (rate, config) -> optimizer.
  """

  def of_group(group):
    changed = config.copy_and_resolve_references()
    if group.weight_decay is not None:
      changed.weight_decay = group.weight_decay
    return _clipped(
      group.clip_norm or 0.0,
      optimizer(lambda step: group.rate_scale * rate(step), changed),
    )

  shared = {
    _REST,
    *(number for number, group in enumerate(groups) if group.clip_norm is None),
  }
  clip = optax.masked(
    _clipped(config.clip_norm, optax.identity()),
    lambda tree: jax.tree.map(
      lambda label: label in shared, labels(groups, tree)
    ),
  )
  # Names as text: checkpoints store keys as such.
  parts = optax.partition(
    {
      str(_REST): optimizer(rate, config),
      **{str(number): of_group(group) for number, group in enumerate(groups)},
    },
    lambda tree: jax.tree.map(str, labels(groups, tree)),
  )
  tx = optax.chain(clip, parts)

  def init(params):
    check(groups, params)
    return tx.init(params)

  return optax.GradientTransformationExtraArgs(init, tx.update)


def _clipped(norm, tx):
  return optax.chain(optax.clip_by_global_norm(norm), tx) if norm else tx
