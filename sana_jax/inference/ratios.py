"""Aspect ratios such as 16:9, in flags and prompt files."""

import re

ALLOWED = 'WIDTH:HEIGHT from 1:4 to 4:1'
_RATIO = re.compile(r'([0-9]{1,5}(?:\.[0-9]+)?):([0-9]{1,5}(?:\.[0-9]+)?)')


def parsed(text: str) -> float | None:
  """Width over height; None for another text, or a ratio out of range."""
  match = _RATIO.fullmatch(text)
  sides = [float(x) for x in match.groups()] if match else [0, 0]
  if not min(sides) or not 0.25 <= sides[0] / sides[1] <= 4:
    return None
  return sides[0] / sides[1]
