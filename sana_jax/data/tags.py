"""A trigger word and random orders of tags, for fine-tuning on few pictures.

  "dog, sitting, grass" -> "sks, dog, sitting, grass"     with a trigger word
                        -> "sks, grass, dog, sitting"     another order

Each order is one of several captions of the record, so that a cache has the
embedding of each, and the rule `uniform` draws one in each step.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from sana_jax.data import captions
from sana_jax.data.filters import Subset

_SEED = 0x746167  # Makes the orders independent of other draws of the seed.


@dataclasses.dataclass(frozen=True)
class TagRule:
  """Changes of a caption.

  Attributes:
    trigger: word that is put before captions without it.
    orders: random orders of the comma-separated tags; 0 keeps the order.
    kept: number of first tags that stay in place, the trigger included.
    seed: of the orders.
  """

  trigger: str = ''
  orders: int = 0
  kept: int = 1
  seed: int = 0

  def changed(self, texts: Mapping[str, str], record: int) -> dict[str, str]:
    """Captions by name, with the orders of `name` as `name/0`, `name/1`, ..."""
    texts = {name: with_trigger(x, self.trigger) for name, x in texts.items()}
    if not self.orders:
      return texts
    rng = np.random.default_rng((self.seed, _SEED, record))
    return {
      f'{name}/{i}': shuffled(text, self.kept, rng)
      for name, text in texts.items()
      for i in range(self.orders)
    }


def with_trigger(caption: str, word: str) -> str:
  """The caption, after `word` and a comma unless it contains the word."""
  if word.lower() in caption.lower():
    return caption
  return f'{word}, {caption}'


def shuffled(caption: str, kept: int, rng: np.random.Generator) -> str:
  """The caption with its tags in a random order after the first `kept`."""
  tags = [tag.strip() for tag in caption.split(',') if tag.strip()]
  moved = tags[kept:]
  return ', '.join(
    [*tags[:kept], *(moved[i] for i in rng.permutation(len(moved)))]
  )


class Tagged(Subset):
  """Source whose captions are changed by a rule."""

  def __init__(self, source, rule: TagRule):
    super().__init__(source, range(len(source)))
    self._rule = rule

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = dict(super().__getitem__(index))
    texts = self._rule.changed(record['captions'], record['index'])
    scores = {} if self._rule.orders else record['scores']
    first = captions.first(texts)
    return {
      **record,
      'captions': texts,
      'caption': texts[first],
      'scores': scores,
    }
