"""Choice of one of several captions of an image by CLIP score.

A record has captions by name ('prompt' is the original one) and scores of some
of them. Sources do not choose. `Captioned`, which `open_source` wraps around
each source, chooses in `at(index, draw)`; pass the epoch or the step as `draw`
for a new choice in each.

The official code and the paper differ: the paper uses softmax(score / T); the
code drops captions that score below a threshold and uses score ** (1 / T), both
normalized.
"""

from collections.abc import Collection, Mapping
import dataclasses
from typing import Any

import numpy as np

from sana_jax.data.facts import DEFAULT, Facts
from sana_jax.data.filters import repeats_of
from sana_jax.data.images import read_image
from sana_jax.data.records import name_of

RULES = ('official', 'paper', 'first', 'uniform')
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
      weights = {first(names): 1.0}
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

  def name(self, index: int) -> str:
    """Name of a record, for reports."""
    return name_of(self.source, index)

  def sizes(self):
    return self.source.sizes()

  def scores(self):
    return self.source.scores()

  def repeats(self):
    return repeats_of(self.source)


def record(
  image: bytes, facts: Facts, index: int, size: int | None
) -> dict[str, Any]:
  """Record of a source: decoded, with 'prompt' or the first as 'caption'."""
  captions = facts.captions
  if not captions:
    raise ValueError('it has no caption')
  return {
    'image': read_image(image, size),
    'captions': dict(captions),
    'caption': captions[first(captions)],
    'scores': dict(facts.scores),
    'index': int(index),
  }


def first(names: Collection[str]) -> str:
  """'prompt' or else the first name."""
  return DEFAULT if DEFAULT in names else next(iter(names))


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
