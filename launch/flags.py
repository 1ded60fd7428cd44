"""Flags, and the one sentence for each of their mistakes.

A flag without a type is `text`: neither empty nor with characters that cannot
be seen. Digits are ASCII: what Python's int and float accept besides (`1_000`,
spaces, digits of other scripts) is refused.
"""

import argparse
from collections.abc import Callable
import contextlib
import difflib
import math
import re
import unicodedata

from sana_jax.errors import UserError
from sana_jax.paths import expanded
from sana_jax.printable import printable

PIXELS = 2**14  # Longest side of a picture.
BATCH = 2**16  # Most pictures at once.
CPU_DEVICES = 2**10  # Most parts of a CPU.
_SHOWN = 80  # Characters of a value in a message.
_WHOLE = re.compile(r'[+-]?[0-9]{1,18}')
_NUMBER = re.compile(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?')
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)
# Control characters, halves of surrogate pairs, line and paragraph separators.
_REFUSED = {'Cc', 'Cs', 'Zl', 'Zp'}


class Parser(argparse.ArgumentParser):
  """Raises UserError where argparse prints its usage and exits."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **{'allow_abbrev': False, **kwargs})
    self.register('type', None, text)

  def error(self, message: str):
    if wrong := _CHOICE.search(message):
      message += similar(wrong[1], re.findall(r'[\w.+-]+', wrong[2]))
    raise UserError(
      f'{message.removeprefix("argument ")}; see {self.prog} --help.'
    )

  def add_subparsers(self, **kwargs):
    found = super().add_subparsers(**kwargs)
    found.type = str  # Its values are all words that follow, prompts too.
    return found

  def parse_known_args(self, args=None, namespace=None):
    for word in args or ():
      if re.fullmatch(r'--[\w-]+=--', word):
        # argparse drops the -- and returns a list where text is expected.
        self.error(f'{word} has no value; give one other than --')
    return super().parse_known_args(args, namespace)

  def flags(self) -> list[str]:
    """Every flag, as the usage shows them."""
    return sorted(set(re.findall(r'--[\w-]+', self.format_usage())))


def similar(word: str, allowed: list[str]) -> str:
  """A suggestion to append to a message; '' where nothing is similar."""
  found = difflib.get_close_matches(word[:_SHOWN], allowed, 1)
  return f'; did you mean {found[0]}?' if found else ''


def shown(value: str) -> str:
  """A value in quotes for a message, escaped and cut."""
  return f"'{printable(value, _SHOWN)}'"


def refused(value: str, allowed: str) -> argparse.ArgumentTypeError:
  """The error for a value; `allowed` is what to give instead."""
  return argparse.ArgumentTypeError(
    f'{shown(value)} is not allowed; give {allowed}'
  )


def prompt(value: str, keep: str = '\n\r\t') -> str:
  """The type of a flag that is any text, even none."""
  for character in value:
    if character in keep or unicodedata.category(character) not in _REFUSED:
      continue
    if '\ud800' <= character <= '\udfff':  # Other bytes of the shell.
      raise argparse.ArgumentTypeError(
        f'{shown(value)} is not UTF-8; give UTF-8 text'
      )
    raise refused(value, f'it without {printable(character)}')
  return value


def text(value: str) -> str:
  """The type of a flag that names something, such as a file or a model."""
  if not prompt(value, keep='').strip():
    raise refused(value, 'a value, or leave the flag out')
  try:
    expanded(value)
  except UserError as e:
    raise argparse.ArgumentTypeError(str(e).removesuffix('.')) from e
  return value


def whole(least: int = 1, most: int = 2**31 - 1) -> Callable[[str], int]:
  """The type of a flag that is a whole number within bounds."""

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
  """Declares a flag with a value; its help ends with the default, if any."""
  if default and '(default' not in about:
    said = 'default: %(default)s'
    about = f'{about} ({said})' if about else said
  parser.add_argument(
    name, metavar=metavar, help=about, type=type, default=default
  )


def ratio(value: str) -> float:
  """The type of a flag like 16:9; width over height."""
  match = re.fullmatch(
    r'([0-9]{1,5}(?:\.[0-9]+)?):([0-9]{1,5}(?:\.[0-9]+)?)', value
  )
  sides = [float(x) for x in match.groups()] if match else [0, 0]
  if not min(sides) or not 0.25 <= sides[0] / sides[1] <= 4:
    raise refused(value, 'WIDTH:HEIGHT from 1:4 to 4:1')
  return sides[0] / sides[1]


def interval(value: str) -> tuple[float, float]:
  """The type of a flag like 0.1:0.9; both in [0, 1], the smaller one first."""
  match = re.fullmatch(r'([0-9](?:\.[0-9]+)?):([0-9](?:\.[0-9]+)?)', value)
  low, high = map(float, match.groups()) if match else (0, 0)
  if not low < high <= 1:
    raise refused(value, 'FROM:TO with 0 <= FROM < TO <= 1')
  return low, high


def steps(value: str) -> range:
  """The type of a flag like 100:105; the second one is not included."""
  match = re.fullmatch(r'([0-9]{1,9}):([0-9]{1,9})', value)
  found = range(*map(int, match.groups())) if match else range(0)
  if not found or not found.start:
    raise refused(value, 'START:STOP with 1 <= START < STOP')
  return found


def sizes(value: str) -> dict[str, int]:
  """The type of a flag like data=2,sequence=-1."""
  pairs = [
    re.fullmatch(r'([a-z_]+)=(-?[0-9]{1,6})', part) for part in value.split(',')
  ]
  if not all(pairs) or len({p[1] for p in pairs}) < len(pairs):
    raise refused(value, 'AXIS=N,AXIS=N')
  return {p[1]: int(p[2]) for p in pairs}


def backends(value: str) -> dict[str, str]:
  """The type of a flag like glumb_conv=xla; see launch/backends.py."""
  pairs = [
    re.fullmatch(r'(\w+)=(\w+)', part, re.ASCII) for part in value.split(',')
  ]
  if not all(pairs) or len({p[1] for p in pairs}) < len(pairs):
    raise refused(value, 'OP=NAME,OP=NAME')
  return {p[1]: p[2] for p in pairs}


def not_negative(value: str) -> float:
  """The type of a flag that is a finite number of 0 or more."""
  number = float(value) if _NUMBER.fullmatch(value) else math.nan
  if not 0 <= number < math.inf:
    raise refused(value, 'a number of 0 or more')
  return number


def fraction(value: str) -> float:
  """The type of a flag that is a number from 0 to 1."""
  with contextlib.suppress(argparse.ArgumentTypeError):
    if (number := not_negative(value)) <= 1:
      return number
  raise refused(value, 'a number from 0 to 1')


def positive(value: str) -> float:
  """The type of a flag that is a finite number of more than 0."""
  with contextlib.suppress(argparse.ArgumentTypeError):
    if number := not_negative(value):
      return number
  raise refused(value, 'a number of more than 0')
