"""Training a part of the parameters: those whose paths a pattern matches.

Gradient, optimizer, average and checkpoints see that part alone, as a tree of
its own. So the rest costs no memory beside itself, and stays what it is to the
bit.
"""

import re

from sana_jax.errors import UserError
from sana_jax.tree import leaves, unflatten
from sana_jax.typing import Params

FORM = 'regular expressions with spaces between them'


def split(
  params: Params, patterns: str, strict: bool = True
) -> tuple[Params, Params]:
  """What trains and what does not, each without the other's keys.

  Args:
    params: nested dicts, of arrays or of what describes them.
    patterns: regular expressions of whole paths ('decoder/.*'), with spaces
      between them; '' for all.
    strict: whether each pattern must match something.

  Raises:
    UserError: a pattern that is none, or a strict one that matches nothing.
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
  """The inverse of `split`, keys in the order of their names."""
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
  """The regular expressions; UserError for what is none."""
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
