"""Choice of one of several captions of an image by CLIP score.

A record has captions by name ('prompt' is the original one) and scores of some
of them. Sources do not choose. `Captioned`, which `open_source` wraps around
each source, chooses in `at(index, draw)`; pass the epoch or the step as `draw`
for a new choice in each.

The official code and the paper differ: the paper uses softmax(score / T); the
code drops captions that score below a threshold and uses score ** (1 / T), both
normalized.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from sana_jax.data.images import read_image

RULES = ('official', 'paper', 'first', 'uniform')
DEFAULT = 'prompt'
_SEED = 0x636170  # Makes the draws independent of others with the same seed.


@dataclasses.dataclass(frozen=True)
class CaptionRule:
  """Rule of the choice; the defaults are those of the published runs.

  official: score ** (1 / max(temperature, 0.01)) among scores of `threshold`
    or more; the best one if none reaches it.
  paper: softmax(score / temperature) over all scored captions.
  first: the one named 'prompt', or else the first.
  uniform: all equally likely.

  Without any scores, the first two are the same as `first`.
  """

  name: str = 'official'
  threshold: float = 25.0
  temperature: float = 0.1

  def probabilities(
    self, captions: Mapping[str, str], scores: Mapping[str, float]
  ) -> dict[str, float]:
    """Probability of each caption."""
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
  """Name of a caption, drawn with the rule's probabilities."""
  chances = rule.probabilities(captions, scores)
  # One random number, regardless of the number of captions.
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
  """`choose`, seeded by `what`: the seed, the record and the draw."""
  if len(captions) == 1:  # The usual case; creating a generator is slower.
    return next(iter(captions))
  seed, *rest = what
  return choose(
    captions, scores, rule, np.random.default_rng((seed, _SEED, *rest))
  )


class Captioned:
  """Source whose records have one caption, which the rule chooses."""

  def __init__(self, source, rule: CaptionRule, seed: int = 0):
    self.source, self._rule, self._seed = source, rule, seed

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.at(index, 0)

  def at(self, index: int, draw: int) -> dict[str, Any]:
    """The record; seed, record and `draw` determine its caption."""
    record = dict(self.source[index])
    captions, scores = record.pop('captions'), record.pop('scores')
    name = drawn(
      captions, scores, self._rule, (self._seed, record['index'], draw)
    )
    return {**record, 'caption': captions[name]}

  def with_all_captions(self, index: int) -> dict[str, Any]:
    """The record with all its 'captions' and 'scores'."""
    return self.source[index]

  def sizes(self):
    return self.source.sizes()

  def scores(self):
    return self.source.scores()


def from_json(content: Any) -> tuple[dict[str, str], dict[str, float]]:
  """(captions, scores) of a JSON object that describes an image.

  `captions` is an object of texts by name, or a list of texts; without it, the
  text of `prompt` or `caption` is named 'prompt'. `scores` is an object of
  numbers; any other text with a score is a caption too.
  """
  if not isinstance(content, dict):
    raise ValueError('the JSON is not an object')
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
  """Non-empty texts that UTF-8 can encode, stripped."""
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
  """Finite numbers, possibly given as text (as in the official files)."""
  out = {}
  for name, value in named.items():
    try:
      out[str(name)] = float(value)
    except (TypeError, ValueError, OverflowError):
      continue
  return {name: value for name, value in out.items() if np.isfinite(value)}


def filter_score(scores: Mapping[str, float]) -> float:
  """Score that filters compare: of 'prompt', else the best; NaN if none."""
  return scores.get(DEFAULT, max(scores.values(), default=float('nan')))


def record(
  image: bytes,
  captions: Mapping[str, str],
  scores: Mapping[str, float],
  index: int,
  size: int | None,
) -> dict[str, Any]:
  """Record of a source: decoded, with 'prompt' or the first as 'caption'."""
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
  # Relative to the best, as 30 ** 100 overflows a float32.
  power = 1 / max(temperature, 0.01)
  return {
    name: max(score / scored[best], 0.0) ** power
    for name, score in good.items()
  }
