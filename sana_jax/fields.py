"""Types and ranges of the fields of a JSON object that others wrote.

Sizes are bounded so that nothing is built, compiled or allocated for a value
that no model has; a bool is no number, and NaN is in no range.
"""

from collections.abc import Callable, Iterable, Mapping
import reprlib
from typing import Any, NamedTuple

from sana_jax.errors import UserError
from sana_jax.printable import printable

_LISTED = 5  # Problems of one object that are reported.
_SHOWN = 80  # Characters of a value.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _SHOWN
_REPR.maxlevel = 3


class Field(NamedTuple):
  """The values that a field may have, in words and as a test.

  Attributes:
    choices: the values, where they are a few words.
  """

  allowed: str
  test: Callable[[Any], bool]
  choices: tuple[str, ...] = ()


FLAG = Field('true or false', lambda value: isinstance(value, bool))
NULL = Field('null', lambda value: value is None)


def whole(low: int, high: int) -> Field:
  """An integer of a closed range."""
  return Field(
    f'a whole number from {low:,} to {high:,}',
    lambda value: type(value) is int and low <= value <= high,
  )


def number(low: float | int, high: float | int) -> Field:
  """An integer or a float of a closed range."""
  return Field(
    f'a number from {low:g} to {high:g}',
    lambda value: type(value) in (int, float) and low <= value <= high,
  )


def word(*choices: str) -> Field:
  """One of these strings."""
  return Field(
    ' or '.join(map(repr, choices)),
    lambda value: isinstance(value, str) and value in choices,
    choices,
  )


def text(most: int) -> Field:
  """A string of 1 to `most` characters."""
  return Field(
    f'a text of 1 to {most:,} characters',
    lambda value: isinstance(value, str) and 0 < len(value) <= most,
  )


def listed(field: Field, low: int, high: int) -> Field:
  """A list of `low` to `high` values, all of one kind."""
  return Field(
    f'a list of {low} to {high:,} entries, each {field.allowed}',
    lambda value: (
      isinstance(value, list | tuple)
      and low <= len(value) <= high
      and all(map(field.test, value))
    ),
  )


def either(*fields: Field) -> Field:
  """Whatever one of the fields allows."""
  return Field(
    ', or '.join(field.allowed for field in fields),
    lambda value: any(field.test(value) for field in fields),
  )


def check(
  where: str, values: Mapping[str, Any], fields: Mapping[str, Field]
) -> None:
  """Raises UserError for the values that their fields do not allow.

  Fields without a value are right; so are values without a field.

  Args:
    where: the file, or the object in it.
  """
  wrong = {
    key: f'{key} is {shown(values[key])}, allowed is {field.allowed}'
    for key, field in fields.items()
    if key in values and not field.test(values[key])
  }
  if wrong:
    first = next(iter(wrong))
    raise UserError(
      f'{where}: {_some([*wrong.values()])}.',
      key=first,
      value=values[first],
      allowed=fields[first].choices or fields[first].allowed,
    )


def check_known(
  where: str, values: Mapping[str, Any], known: Iterable[str]
) -> None:
  """Raises UserError for keys that are not known."""
  if unknown := sorted(set(values) - set(known)):
    raise UserError(
      f'{where} has unknown keys '
      f'{_some([shown(key) for key in unknown], ", ")}.',
      key=unknown[0],
      allowed=tuple(known),
    )


def shown(value: Any) -> str:
  """A value as messages have it: short, on one line, nothing unseen."""
  return printable(_REPR.repr(value), _SHOWN)


def _some(problems, separator='; '):
  more = len(problems) - _LISTED
  return separator.join(
    problems[:_LISTED] + ([f'and {more} more'] if more > 0 else [])
  )
