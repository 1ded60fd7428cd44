"""Splitting parameters into trainable and frozen ones by patterns of paths.

Gradient, optimizer, EMA and checkpoints have only the trainable part, as a
separate tree. The frozen part costs no further memory and stays bit for bit.
"""

import re

from sana_jax.errors import UserError
from sana_jax.tree import leaves, unflatten
from sana_jax.typing import Params

FORM = 'regular expressions with spaces between them'


def split(
  params: Params, patterns: str, strict: bool = True
) -> tuple[Params, Params]:
  """(trainable, frozen) parameters, each without the other's keys.

  Args:
    params: nested dicts of arrays or of their descriptions.
    patterns: regular expressions of whole paths ('decoder/.*'), separated by
      spaces; '' for all.
    strict: whether each pattern must match something.

  Raises:
    UserError: an invalid pattern, or a strict one that matches nothing.
  """
  wanted, used = compiled(patterns), set()
  if not wanted:
    return params, {}
  trained, rest = {}, {}
  for name, leaf in leaves(params).items():
    hits = [p for p in wanted if p.fullmatch(name)]
    used.update(hits)
    (trained if hits else rest)[name] = leaf
  unused = [p.pattern for p in wanted if p not in used]
  if unused and strict:
    raise UserError(
      f'config.trainable: {", ".join(map(repr, unused))} matches no parameter; '
      f'patterns match a whole path, such as {name!r}.',
      key='trainable',
      value=patterns,
      allowed='patterns of parameters',
    )
  return unflatten(trained), unflatten(rest)


def join(trained: Params, rest: Params) -> Params:
  """The inverse of `split`, with sorted keys."""
  if not rest:
    return trained
  either = {**trained, **rest}
  return {
    key: join(trained[key], rest[key])
    if key in trained and key in rest
    else either[key]
    for key in sorted(either)
  }


def compiled(patterns: str) -> list[re.Pattern]:
  """The compiled regular expressions; UserError for an invalid one."""
  try:
    return [re.compile(pattern) for pattern in patterns.split()]
  except re.error as e:
    raise UserError(
      f'config.trainable={patterns!r} must be regular expressions with spaces '
      f'between them ({e}).',
      key='trainable',
      value=patterns,
      allowed=FORM,
    ) from e
