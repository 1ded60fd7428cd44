"""Flags whose mistakes are told in one sentence."""

import argparse
from collections.abc import Callable
import contextlib
import math
import re

from sana_jax.errors import UserError


class Parser(argparse.ArgumentParser):
  """Raises UserError where argparse prints its usage and exits."""

  def error(self, message: str):
    raise UserError(
      f'{message.removeprefix("argument ")}; see {self.prog} --help.')

  def parse_known_args(self, args=None, namespace=None):
    for word in args or ():
      if re.fullmatch(r'--[\w-]+=--', word):
        # argparse drops the -- and returns a list where text is expected.
        self.error(f'{word} has no value; give one other than --')
    return super().parse_known_args(args, namespace)

  def flags(self) -> list[str]:
    """Every flag, as the usage shows them."""
    return sorted(set(re.findall(r'--[\w-]+', self.format_usage())))


def whole(least: int = 1, most: int = 2**31 - 1) -> Callable[[str], int]:
  """The type of a flag that is a whole number within bounds."""
  def parse(text):
    try:
      value = int(text)
    except ValueError:
      value = None
    if value is None or not least <= value <= most:
      raise argparse.ArgumentTypeError(
        f'{text!r} is not allowed; give a whole number from {least} to {most}')
    return value
  return parse


def ratio(text: str) -> float:
  """The type of a flag like 16:9; width over height."""
  match = re.fullmatch(r'(\d{1,5}(?:\.\d+)?):(\d{1,5}(?:\.\d+)?)', text)
  sides = [float(x) for x in match.groups()] if match else [0, 0]
  if not min(sides) or not 0.25 <= sides[0] / sides[1] <= 4:
    raise argparse.ArgumentTypeError(
      f'{text!r} is not allowed; give WIDTH:HEIGHT from 1:4 to 4:1')
  return sides[0] / sides[1]


def interval(text: str) -> tuple[float, float]:
  """The type of a flag like 0.1:0.9; both in [0, 1], the smaller one first."""
  match = re.fullmatch(r'(\d(?:\.\d+)?):(\d(?:\.\d+)?)', text)
  low, high = map(float, match.groups()) if match else (0, 0)
  if not low < high <= 1:
    raise argparse.ArgumentTypeError(
      f'{text!r} is not allowed; give FROM:TO with 0 <= FROM < TO <= 1')
  return low, high


def steps(text: str) -> range:
  """The type of a flag like 100:105; the second one is not included."""
  match = re.fullmatch(r'(\d{1,9}):(\d{1,9})', text)
  found = range(*map(int, match.groups())) if match else range(0)
  if not found or not found.start:
    raise argparse.ArgumentTypeError(
      f'{text!r} is not allowed; give START:STOP with 1 <= START < STOP')
  return found


def sizes(text: str) -> dict[str, int]:
  """The type of a flag like data=2,sequence=-1."""
  pairs = [re.fullmatch(r'(\w+)=(-?\d{1,6})', part) for part in
           text.split(',')]
  if not all(pairs) or len({p[1] for p in pairs}) < len(pairs):
    raise argparse.ArgumentTypeError(
      f'{text!r} is not allowed; give AXIS=N,AXIS=N')
  return {p[1]: int(p[2]) for p in pairs}


def backends(text: str) -> dict[str, str]:
  """The type of a flag like glumb_conv=xla; see launch/backends.py."""
  pairs = [re.fullmatch(r'(\w+)=(\w+)', part) for part in text.split(',')]
  if not all(pairs):
    raise argparse.ArgumentTypeError(
      f'{text!r} is not allowed; give OP=NAME,OP=NAME')
  return {p[1]: p[2] for p in pairs}


def not_negative(text: str) -> float:
  """The type of a flag that is a finite number of 0 or more."""
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not 0 <= value < math.inf:
    raise argparse.ArgumentTypeError(
      f'{text!r} is not allowed; give a number of 0 or more')
  return value


def positive(text: str) -> float:
  """The type of a flag that is a finite number of more than 0."""
  with contextlib.suppress(argparse.ArgumentTypeError):
    if value := not_negative(text):
      return value
  raise argparse.ArgumentTypeError(
    f'{text!r} is not allowed; give a number of more than 0')


def fraction(text: str) -> float:
  """The type of a flag that is a number from 0 to 1."""
  with contextlib.suppress(argparse.ArgumentTypeError):
    if (value := not_negative(text)) <= 1:
      return value
  raise argparse.ArgumentTypeError(
    f'{text!r} is not allowed; give a number from 0 to 1')


def text(value: str) -> str:
  """The type of a flag that is text; the shell may hand over other bytes."""
  try:
    value.encode()
  except UnicodeEncodeError:
    raise argparse.ArgumentTypeError(
      f'{value!r} is not UTF-8; give UTF-8 text') from None
  return value
