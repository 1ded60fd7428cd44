"""One of several captions of an image, chosen by its CLIP score.

A record has its captions by name, 'prompt' the one it came with, and scores of
some of them. Sources choose nothing. `Captioned`, which `open_source` puts
around each, chooses in `at(index, draw)`: whoever wants another choice in each
epoch passes the epoch or the step as `draw`.

The official code and the paper differ: the paper takes softmax(score / T), the
code leaves out what scores below a threshold and takes score ** (1 / T), both
normalized.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from sana_jax.data.images import read_image

RULES = ('official', 'paper', 'first', 'uniform')
DEFAULT = 'prompt'
_SEED = 0x636170  # Apart from what else is drawn for the seed.


@dataclasses.dataclass(frozen=True)
class CaptionRule:
  """How to choose; the defaults are those of the published runs.

  official: score ** (1 / max(temperature, 0.01)) among scores of `threshold`
    or more; the best one if none reaches it.
  paper: softmax(score / temperature) of all that are scored.
  first: the one named 'prompt', or else the first.
  uniform: any.

  Without any score, the first two take what `first` takes.
  """

  name: str = 'official'
  threshold: float = 25.0
  temperature: float = 0.1

  def probabilities(
    self, captions: Mapping[str, str], scores: Mapping[str, float]
  ) -> dict[str, float]:
    """Of each caption to be chosen."""
    names = list(captions)
    scored = {
      name: score
      for name, score in scores.items()
      if name in captions and np.isfinite(score)
    }
    if self.name == 'uniform':
      weights = dict.fromkeys(names, 1.0)
    elif self.name == 'first' or not scored:
      weights = {_first(names): 1.0}
    elif self.name == 'paper':
      weights = _softmax(scored, self.temperature)
    else:
      weights = _power(scored, self.threshold, self.temperature)
    total = sum(weights.values())
    return {name: weights.get(name, 0.0) / total for name in names}


def choose(
  captions: Mapping[str, str],
  scores: Mapping[str, float],
  rule: CaptionRule,
  rng: np.random.Generator,
) -> str:
  """The name of a caption, drawn with the rule's probabilities."""
  chances = rule.probabilities(captions, scores)
  # One draw, whatever the number of captions.
  place = np.searchsorted(
    np.cumsum(list(chances.values())), rng.random(), side='right'
  )
  last = max(i for i, p in enumerate(chances.values()) if p > 0)
  return list(chances)[min(int(place), last)]


def drawn(
  captions: Mapping[str, str],
  scores: Mapping[str, float],
  rule: CaptionRule,
  what: tuple[int, int, int],
) -> str:
  """`choose` as it follows from `what`: the seed, the record and the draw."""
  if len(captions) == 1:  # As in most data: making a generator costs more.
    return next(iter(captions))
  seed, *rest = what
  return choose(
    captions, scores, rule, np.random.default_rng((seed, _SEED, *rest))
  )


class Captioned:
  """A source whose records have the one caption that the rule chooses."""

  def __init__(self, source, rule: CaptionRule, seed: int = 0):
    self.source, self._rule, self._seed = source, rule, seed

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  def at(self, index: int, draw: int) -> dict[str, Any]:
    """The record; the choice follows from the seed, the record and `draw`."""
    record = dict(self.source[index])
    captions, scores = record.pop('captions'), record.pop('scores')
    name = drawn(
      captions, scores, self._rule, (self._seed, record['index'], draw)
    )
    return {**record, 'caption': captions[name]}

  def whole(self, index: int) -> dict[str, Any]:
    """The record with all its 'captions' and 'scores'."""
    return self.source[index]

  def sizes(self):
    return self.source.sizes()

  def scores(self):
    return self.source.scores()


def from_json(content: Any) -> tuple[dict[str, str], dict[str, float]]:
  """(captions, scores) of a JSON object that describes an image.

  `captions` is an object of texts by name, or a list of texts; without it, the
  text of `prompt` or `caption` is called 'prompt'. `scores` is an object of
  numbers; any further text with a score is a caption too.
  """
  if not isinstance(content, dict):
    raise ValueError('the JSON is no object')
  named = content.get('captions', {})
  if isinstance(named, list):
    named = dict(zip([DEFAULT, *map(str, range(1, len(named)))], named))
  given = content.get('scores', {})
  scores = given if isinstance(given, dict) else {}
  first = content.get(DEFAULT, content.get('caption'))
  named = (
    {DEFAULT: first}
    | {name: content.get(name) for name in scores}
    | (named if isinstance(named, dict) else {})
  )
  return usable(named), numbers(scores)


def usable(named: Mapping[str, Any]) -> dict[str, str]:
  """Texts among them that have letters and that UTF-8 can encode."""
  return {
    str(name): text.strip()
    for name, text in named.items()
    if isinstance(text, str) and text.strip() and _is_utf8(text)
  }


def _is_utf8(text):
  try:
    text.encode()
  except UnicodeEncodeError:  # Half a surrogate pair.
    return False
  return True


def numbers(named: Mapping[str, Any]) -> dict[str, float]:
  """Those that are finite numbers, or texts of such (as the official files)."""
  out = {}
  for name, value in named.items():
    try:
      out[str(name)] = float(value)
    except (TypeError, ValueError, OverflowError):
      continue
  return {name: value for name, value in out.items() if np.isfinite(value)}


def filter_score(scores: Mapping[str, float]) -> float:
  """By which a record is kept: that of 'prompt', else the best; NaN if none."""
  return scores.get(DEFAULT, max(scores.values(), default=float('nan')))


def record(
  image: bytes,
  captions: Mapping[str, str],
  scores: Mapping[str, float],
  index: int,
  size: int | None,
) -> dict[str, Any]:
  """What sources return: decoded, with 'caption' the one named 'prompt'."""
  if not captions:
    raise ValueError('it has no caption')
  return {
    'image': read_image(image, size),
    'captions': dict(captions),
    'caption': captions[_first(list(captions))],
    'scores': dict(scores),
    'index': int(index),
  }


def _first(names):
  return DEFAULT if DEFAULT in names else names[0]


def _softmax(scored, temperature):
  best = max(scored.values())
  return {
    name: float(np.exp((score - best) / max(temperature, 1e-6)))
    for name, score in scored.items()
  }


def _power(scored, threshold, temperature):
  best = max(scored, key=scored.get)
  good = {name: score for name, score in scored.items() if score >= threshold}
  if not good or scored[best] <= 0:
    return {best: 1.0}
  # Relative to the best: 30 ** 100 would be too much for a float32.
  power = 1 / max(temperature, 0.01)
  return {
    name: max(score / scored[best], 0.0) ** power
    for name, score in good.items()
  }
