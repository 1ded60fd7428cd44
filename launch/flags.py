"""Flags and their one-line errors.

A flag without a type is `text`: neither empty nor with invisible characters.
Digits are ASCII: other forms that Python's int and float accept (`1_000`,
spaces, digits of other scripts) is refused.
"""

import argparse
from collections.abc import Callable, Collection
import contextlib
import difflib
import math
import re
import sys
import unicodedata

from sana_jax.errors import UserError
from sana_jax.inference import ratios
from sana_jax.paths import expanded
from sana_jax.printable import printable

PIXELS = 2**14  # Longest side of a picture.
BATCH = 2**16  # Maximum batch.
CPU_DEVICES = 2**10  # Maximum of CPU devices.
_SHOWN = 80  # Characters of a value in a message.
_WHOLE = re.compile(r'[+-]?[0-9]{1,18}')
_NUMBER = re.compile(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?')
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)
_ARGUMENT = re.compile(
  r'(?:argument |one of the arguments |.* are required: )([^\s:/,]+)'
)
# Control characters, halves of surrogate pairs, line and paragraph separators.
_REFUSED = {'Cc', 'Cs', 'Zl', 'Zp'}


class Invalid(argparse.ArgumentTypeError):
  """Error for a value, with the value and the allowed ones of a UserError."""

  def __init__(self, message: str, value: str, allowed: Collection[str] | str):
    super().__init__(message)
    self.value, self.allowed = value, allowed


class Parser(argparse.ArgumentParser):
  """Parser that raises UserError where argparse prints its usage and exits."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **{'allow_abbrev': False, **kwargs})
    self.register('type', None, text)

  def error(self, message: str):
    value = allowed = None
    if wrong := _CHOICE.search(message):
      value, allowed = wrong[1], re.findall(r'[\w.+-]+', wrong[2])
      message += similar(value, allowed)
    # argparse converts the error of a type, while it is handled.
    if isinstance(cause := getattr(sys.exception(), '__context__', 0), Invalid):
      value, allowed = cause.value, cause.allowed
    flag = _ARGUMENT.match(message)
    raise UserError(
      f'{message.removeprefix("argument ")}; see {self.prog} --help.',
      key=flag[1] if flag else '',
      value=value,
      allowed=allowed,
    )

  def add_subparsers(self, **kwargs):
    found = super().add_subparsers(**kwargs)
    found.type = str  # Its values are all following words, including prompts.
    return found

  def parse_known_args(self, args=None, namespace=None):
    args = self._hyphened(sys.argv[1:] if args is None else args)
    for word in args:
      if re.fullmatch(r'--[\w-]+=--', word):
        # argparse drops the -- and returns a list where text is expected.
        raise UserError(
          f'{word} has no value; give one other than --.',
          key=word.removesuffix('=--'),
          value='--',
        )
    return super().parse_known_args(args, namespace)

  def _hyphened(self, args):
    """The arguments with flags such as --num_images as --num-images."""
    known, found = self._option_string_actions, []
    for index, word in enumerate(args):
      if word == '--':
        return found + list(args[index:])
      name, equals, value = word.partition('=')
      if name.startswith('--') and name not in known:
        other = name.replace('_', '-')
        word = other + equals + value if other in known else word
      found.append(word)
    return found

  def flags(self) -> list[str]:
    """All flags, as the usage shows them."""
    return sorted(set(re.findall(r'--[\w-]+', self.format_usage())))


def similar(word: str, allowed: list[str]) -> str:
  """Suggestion to append to a message; '' if nothing is similar."""
  found = difflib.get_close_matches(word[:_SHOWN], allowed, 1)
  return f'; did you mean {found[0]}?' if found else ''


def shown(value: str) -> str:
  """Quoted value for a message, escaped and truncated."""
  return f"'{printable(value, _SHOWN)}'"


def refused(value: str, allowed: str) -> Invalid:
  """Error for a value; `allowed` describes valid ones."""
  return Invalid(
    f'{shown(value)} is not allowed; give {allowed}', value, allowed
  )


def prompt(value: str, keep: str = '\n\r\t') -> str:
  """Parses any text, even an empty one."""
  for character in value:
    if character in keep or unicodedata.category(character) not in _REFUSED:
      continue
    if '\ud800' <= character <= '\udfff':  # Undecodable bytes.
      allowed = 'UTF-8 text'
      raise Invalid(
        f'{shown(value)} is not UTF-8; give {allowed}', value, allowed
      )
    raise refused(value, f'it without {printable(character)}')
  return value


def text(value: str) -> str:
  """Parses a name, such as that of a file or a model."""
  if not prompt(value, keep='').strip():
    raise refused(value, 'a value, or leave the flag out')
  try:
    expanded(value)
  except UserError as e:
    raise Invalid(str(e).removesuffix('.'), value, e.allowed) from e
  return value


def whole(least: int = 1, most: int = 2**31 - 1) -> Callable[[str], int]:
  """Parser of a whole number within bounds."""

  def parse(value):
    number = int(value) if _WHOLE.fullmatch(value) else None
    if number is None or not least <= number <= most:
      raise refused(value, f'a whole number from {least} to {most}')
    return number

  return parse


def flag(
  parser: argparse._ActionsContainer,
  name: str,
  metavar: str,
  about: str = '',
  type: Callable[[str], object] = text,
  default: object = None,
) -> None:
  """Declares a flag with a value; appends the default, if any, to its help."""
  if default and '(default' not in about:
    shown_default = 'default: %(default)s'
    about = f'{about} ({shown_default})' if about else shown_default
  parser.add_argument(
    name, metavar=metavar, help=about, type=type, default=default
  )


def ratio(value: str) -> float:
  """Parses an aspect ratio such as 16:9: width over height."""
  if (found := ratios.parsed(value)) is None:
    raise refused(value, ratios.ALLOWED)
  return found


def strength(value: str) -> float:
  """Parses a number from 0.01 to 1."""
  number = float(value) if _NUMBER.fullmatch(value) else 0.0
  if not 0.01 <= number <= 1:
    raise refused(value, 'a number from 0.01 to 1')
  return number


def angles(value: str) -> list[float]:
  """Parses decreasing angles of steps, such as 1.5708,1.3."""
  parts = value.split(',')
  found = [float(p) for p in parts if _NUMBER.fullmatch(p)]
  after = [*found[1:], 0]
  if len(found) == len(parts) and all(a > b for a, b in zip(found, after)):
    return found
  raise refused(value, 'decreasing angles of steps, such as 1.5708,1.3')


def interval(value: str) -> tuple[float, float]:
  """Parses an interval in [0, 1] such as 0.1:0.9."""
  match = re.fullmatch(r'([0-9](?:\.[0-9]+)?):([0-9](?:\.[0-9]+)?)', value)
  low, high = map(float, match.groups()) if match else (0, 0)
  if not low < high <= 1:
    raise refused(value, 'FROM:TO with 0 <= FROM < TO <= 1')
  return low, high


def steps(value: str) -> range:
  """Parses a range of steps such as 100:105, whose end is excluded."""
  match = re.fullmatch(r'([0-9]{1,9}):([0-9]{1,9})', value)
  found = range(*map(int, match.groups())) if match else range(0)
  if not found or not found.start:
    raise refused(value, 'START:STOP with 1 <= START < STOP')
  return found


def sizes(value: str) -> dict[str, int]:
  """Parses sizes of mesh axes such as data=2,sequence=-1."""
  pairs = [
    re.fullmatch(r'([a-z_]+)=(-?[0-9]{1,6})', part) for part in value.split(',')
  ]
  if not all(pairs) or len({p[1] for p in pairs}) < len(pairs):
    raise refused(value, 'AXIS=N,AXIS=N')
  return {p[1]: int(p[2]) for p in pairs}


def backends(value: str) -> dict[str, str]:
  """Parses backends of ops such as glumb_conv=xla; see sana_jax/backends.py."""
  pairs = [
    re.fullmatch(r'(\w+)=(\w+)', part, re.ASCII) for part in value.split(',')
  ]
  if not all(pairs) or len({p[1] for p in pairs}) < len(pairs):
    raise refused(value, 'OP=NAME,OP=NAME')
  return {p[1]: p[2] for p in pairs}


def not_negative(value: str) -> float:
  """Parses a finite number of 0 or more."""
  number = float(value) if _NUMBER.fullmatch(value) else math.nan
  if not 0 <= number < math.inf:
    raise refused(value, 'a number of 0 or more')
  return number


def fraction(value: str) -> float:
  """Parses a number from 0 to 1."""
  with contextlib.suppress(argparse.ArgumentTypeError):
    if (number := not_negative(value)) <= 1:
      return number
  raise refused(value, 'a number from 0 to 1')


def weighted(value: str) -> tuple[str, float]:
  """Parses FILE or FILE:WEIGHT; the weight is 1 without one."""
  path, colon, number = text(value).rpartition(':')
  if not colon or not _NUMBER.fullmatch(number):
    return value, 1.0
  if not path or not abs(float(number)) <= 100:
    raise refused(value, 'FILE:WEIGHT with a weight from -100 to 100')
  return path, float(number)


def positive(value: str) -> float:
  """Parses a finite number of more than 0."""
  with contextlib.suppress(argparse.ArgumentTypeError):
    if number := not_negative(value):
      return number
  raise refused(value, 'a number of more than 0')
