"""Published checkpoints by name.

zoo.get('sana_1600m_1024_bf16').module('transformer')
"""

import difflib

from sana_jax.errors import UserError
from sana_jax.weights.zoo.entry import Entry, SOURCES
from sana_jax.weights.zoo.published import ENTRIES

_BY_NAME = {entry.name: entry for entry in ENTRIES}


def get(name: str) -> Entry:
  """Entry of this name; UserError, with the nearest names, if unknown."""
  if name in _BY_NAME:
    return _BY_NAME[name]
  near = difflib.get_close_matches(name.lower(), _BY_NAME, n=3)
  hint = f'did you mean {" or ".join(near)}? ' if near else ''
  raise UserError(
    f'The zoo has no {name!r}; {hint}sana-jax zoo lists all.',
    key='model',
    value=name,
  )


def hub_id(name: str) -> str | None:
  """Hub id of the diffusers layout; None if the zoo has no such name.

  Raises:
    UserError: only the authors' own format is on the hub.
  """
  entry = _BY_NAME.get(name)
  if entry is None or entry.hub_id:
    return entry and entry.hub_id
  raise UserError(
    f'{name} is not on the hub in the diffusers layout; download the .pth of '
    f'{entry.official_hub_id} and run sana-jax convert with --like {name}.',
    key='model',
    value=name,
  )


def check_sampling(name: str) -> None:
  """Raises UserError for a name or hub id that `Pipeline` cannot sample."""
  for entry in ENTRIES:
    if name in (entry.name, entry.hub_id) and not entry.can_sample:
      kind = entry.kind.replace('_', ' ')
      raise UserError(
        f'{name} is of the kind {kind}, which is one part of a model; choose '
        'one with sample: yes in the table of sana-jax zoo.',
        key='model',
        value=name,
      )


__all__ = [
  'check_sampling',
  'ENTRIES',
  'Entry',
  'get',
  'hub_id',
  'SOURCES',
]
