"""Keys of a config: default, comment, check, and the effect of a change.

A table is a dict of Keys by name. It determines defaults, checks, what may
change when a run is resumed, the keys of caches and plans, and the page of the
docs. The table of the entire config is `sana_jax.config.table`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import enum
import sys
from typing import Any

from sana_jax.errors import did_you_mean, UserError
from sana_jax.fields import Field


class Effect(enum.Flag):
  """Effect of changing a value, beyond rounding.

  Attributes:
    RESULT: the weights, pictures or exports of a run; fixed once a run has
      begun.
    CACHE: cached latents and text embeddings.
    CACHED_TEXT: cached text embeddings.
    PROGRAM: the compiled program, and so a plan.
    LAYOUT: the partition of the work over devices; a layout file may set it.
  """

  RESULT = enum.auto()
  CACHE = enum.auto()
  CACHED_TEXT = enum.auto()
  PROGRAM = enum.auto()
  LAYOUT = enum.auto()


NOTHING = Effect(0)
RESULT, PROGRAM, LAYOUT = Effect.RESULT, Effect.PROGRAM, Effect.LAYOUT
CACHE, CACHED_TEXT = Effect.CACHE, Effect.CACHED_TEXT

POSITIVE = Field('positive', lambda value: value > 0)
NOT_NEGATIVE = Field('zero or more', lambda value: value >= 0)
FRACTION = Field('at least 0 and less than 1', lambda value: 0 <= value < 1)
SHARE = Field('from 0 to 1', lambda value: 0 <= value <= 1)


def most(high: int) -> Field:
  """A number of at most `high`."""
  return Field(f'at most {high}', lambda value: value <= high)


def size(high: int) -> tuple[Field, ...]:
  """A positive number of at most `high`."""
  return POSITIVE, most(high)


def one_of(choices: Collection[str]) -> Field:
  """One of these strings."""
  return Field(
    f'one of {list(choices)}', lambda value: value in choices, tuple(choices)
  )


def parsed_by(parse: Callable[[str], Any], form: str) -> Field:
  """Text that `parse` accepts; the error that it raises is reported."""

  def test(value):
    parse(value)
    return True

  return Field(form, test)


def _is_text(value):
  try:
    value.encode()
  except UnicodeEncodeError:
    return False
  return True


@dataclasses.dataclass(frozen=True)
class Location:
  """Property of a key whose value each host of a run must be able to read.

  A folder that each host makes for itself, such as a local cache, has none.

  Attributes:
    buckets: whether it may be a URL of a bucket.
    names: whether it may be a model's name or hub id.
    used: (values of the config by dotted name, whether the run has a
      checkpoint) -> whether it is read.
  """

  buckets: bool = False
  names: bool = False
  used: Callable[[Mapping[str, Any], bool], bool] = lambda values, begun: True


WHOLE_TEXT = Field('text without half a surrogate pair', _is_text)
# Conditions on a value by the type of its default.
_OF_TYPE = {
  bool: (Field('true or false', lambda value: type(value) is bool),),
  int: (Field('a whole number', lambda value: type(value) is int),),
  float: (
    Field('a number', lambda value: type(value) in (int, float)),
    Field('finite', lambda value: abs(value) <= sys.float_info.max),
  ),
  str: (Field('text', lambda value: type(value) is str), WHOLE_TEXT),
}
_INT32 = Field('less than 2 ** 31', lambda value: value < 2**31)


@dataclasses.dataclass(frozen=True)
class Key:
  """A key of a config; values have the type of the default.

  Attributes:
    check: conditions on a value, besides its type; the first violated one is
      reported.
    optional: whether a config may omit the key, a field of a model; the default
      is the model's.
    location: for a path that every host reads.
  """

  default: Any
  comment: str
  check: Field | tuple[Field, ...] = ()
  changes: Effect = RESULT | PROGRAM
  optional: bool = False
  location: Location | None = None

  @property
  def own_check(self) -> tuple[Field, ...]:
    return (self.check,) if isinstance(self.check, Field) else self.check

  def violated(self, value: Any) -> Field | None:
    """The first condition that the value violates, if any."""
    kind = type(self.default)
    conditions = (
      *_OF_TYPE.get(kind, ()),
      *self.own_check,
      *((_INT32,) if kind is int else ()),
    )
    return next((f for f in conditions if not f.test(value)), None)


Table = Mapping[str, Key]


def problems(
  values: Mapping[str, Any],
  table: Table,
  group: str = '',
) -> Iterator[UserError]:
  """Yields an error for each value that its key does not allow.

  Values without a key in the table are only checked for valid text.

  Args:
    group: prefix of the names in a config, such as 'optimizer.'.
  """
  for name, value in values.items():
    key = table.get(name) or Key(None, '', _any_text(value))
    try:
      field = key.violated(value)
    except UserError as e:
      yield e
      continue
    if field:
      near = did_you_mean(str(value), field.choices)
      yield UserError(
        f'config.{group}{name}={value!r} must be {field.allowed}{near}.',
        key=group + name,
        value=value,
        allowed=field.choices or field.allowed,
      )


def _any_text(value):
  return WHOLE_TEXT if isinstance(value, str) else ()
