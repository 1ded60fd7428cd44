"""Values in requests of the demo, of any type, and errors about them."""

from collections.abc import Sequence
from typing import Any

from sana_jax.errors import UserError
from sana_jax.printable import printable

_CHARACTERS = 20_000  # Of a prompt; some 300 words of it are used.


def text_problems(
  key: str, value: Any, needed: bool = False
) -> list[UserError]:
  """Errors of a text; one that is needed has other characters than blanks."""
  if not isinstance(value, str):
    return [problem(key, value, 'text')]
  about = {'key': key, 'value': value}
  try:
    value.encode()
  except UnicodeEncodeError:
    allowed = 'UTF-8 text'
    return [
      UserError(
        f'{key} is not UTF-8; give {allowed}.', allowed=allowed, **about
      )
    ]
  if needed and not value.strip():
    return [UserError(f'{key} is empty; describe a picture.', **about)]
  if len(value) > _CHARACTERS:
    return [
      UserError(
        f'{key} has {len(value)} characters; at most {_CHARACTERS} are '
        'allowed.',
        allowed=f'at most {_CHARACTERS} characters',
        **about,
      )
    ]
  return []


def number_problems(
  key: str, value: Any, low: float | int, high: float | int
) -> list[UserError]:
  """Errors of a number, which must lie between two others."""
  if is_number(value) and low <= value <= high:
    return []
  return [problem(key, value, f'a number from {low:g} to {high:g}')]


def problem(key: str, value: Any, allowed: str | Sequence[str]) -> UserError:
  """The error of an invalid value.

  Args:
    allowed: what to give instead, or all allowed values.
  """
  give = (
    f'give {allowed}'
    if isinstance(allowed, str)
    else f'allowed are {", ".join(allowed)}'
  )
  return UserError(
    f'{key} is {shown(value)}; {give}.', key=key, value=value, allowed=allowed
  )


def is_number(value: Any) -> bool:
  """Whether a value is a number, and no truth value."""
  return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
  """A short text for a value."""
  if value is None:
    return 'missing'
  if isinstance(value, list | dict):
    return 'a list' if isinstance(value, list) else 'an object'
  if isinstance(value, int) and value.bit_length() > 128:
    return 'a number of over 38 digits'
  return printable(repr(value), 60)
