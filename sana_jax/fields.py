"""Types and ranges of the fields of an untrusted JSON object.

Sizes are bounded so that nothing is built, compiled or allocated for a value
that no model has. A bool is not a number, and NaN is outside of every range.
"""

from collections.abc import Callable, Iterable, Mapping
import reprlib
from typing import Any, NamedTuple

import numpy as np

from sana_jax.errors import UserError
from sana_jax.printable import counted, printable

_LISTED = 5  # Reported problems of an object.
_SHOWN = 80  # Characters of a value in a message.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _SHOWN
_REPR.maxlevel = 3


class Field(NamedTuple):
  """Allowed values of a field, in words and as a test.

  Attributes:
    choices: the values, if they are a few strings.
  """

  allowed: str
  test: Callable[[Any], bool]
  choices: tuple[str, ...] = ()


FLAG = Field('true or false', lambda value: isinstance(value, bool))
NULL = Field('null', lambda value: value is None)


def integer(low: int, high: int) -> Field:
  """An integer in a closed range."""
  return Field(
    f'a whole number from {low:,} to {high:,}',
    lambda value: type(value) is int and low <= value <= high,
  )


def number(low: float | int, high: float | int) -> Field:
  """An integer or a float in a closed range."""
  return Field(
    f'a number from {low:g} to {high:g}',
    lambda value: type(value) in (int, float) and low <= value <= high,
  )


def choice(*choices: str) -> Field:
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


def list_of(field: Field, low: int, high: int) -> Field:
  """A list of `low` to `high` values, each allowed by `field`."""
  return Field(
    f'a list of {low} to {counted(high, "entry", "entries")}, '
    f'each {field.allowed}',
    lambda value: (
      isinstance(value, list | tuple)
      and low <= len(value) <= high
      and all(map(field.test, value))
    ),
  )


def either(*fields: Field) -> Field:
  """A value that at least one of the fields allows."""
  return Field(
    ', or '.join(field.allowed for field in fields),
    lambda value: any(field.test(value) for field in fields),
  )


def check(
  where: str, values: Mapping[str, Any], fields: Mapping[str, Field]
) -> None:
  """Raises UserError for values that their fields do not allow.

  Fields without a value and values without a field are not checked.

  Args:
    where: the file or the object in it, for messages.
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
  """Raises UserError for unknown keys."""
  if unknown := sorted(set(values) - set(known)):
    raise UserError(
      f'{where} has unknown keys '
      f'{_some([shown(key) for key in unknown], ", ")}.',
      key=unknown[0],
      allowed=tuple(known),
    )


def plain(value: Any) -> Any:
  """A NumPy scalar as a Python number; any other value unchanged."""
  return value.item() if isinstance(value, np.generic) else value


def shown(value: Any) -> str:
  """A value for a message: short, on one line, printable."""
  return printable(_REPR.repr(value), _SHOWN)


def _some(problems, separator='; '):
  more = len(problems) - _LISTED
  return separator.join(
    problems[:_LISTED] + ([f'and {more} more'] if more > 0 else [])
  )
