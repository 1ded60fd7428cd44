"""Scores prompt following on `shapes` by GenEval's rules.

From GenEval's evaluate_images.py (github.com/djghosh13/geneval), for an image
whose objects of each shape are sorted by confidence:

- each shape named is there as often as asked, else the image fails;
- where a colour is named, the `count` most confident objects of that shape
  all have it (so a red circle does not excuse a more certain blue one);
- counting: not one object of that shape more;
- position: the first object lies on that side of the second. The offset of
  the centres loses a tenth of both boxes' sides (`POSITION_MARGIN`) and must
  then, along the axis asked for, be more than half of the whole distance.

Further objects do no harm, except in counting. The strict rule adds that the
image shows no other object. Our confidence is the overlap with the shape's
template, and the two shapes of a prompt always differ.
"""

from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np

from sana_jax.data.shapes import captions, KINDS, Requirement
from sana_jax.evaluation.shapes_detector import detect, Detected
from sana_jax.typing import UInt8

POSITION_MARGIN = 0.1
# Against how many other prompts an image is scored for the chance level.
CHANCE_ROUNDS = 32


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A held-out caption and what its image must show."""

  text: str
  requirement: Requirement

  @property
  def kind(self) -> str:
    return self.requirement.kind


@dataclasses.dataclass(frozen=True)
class Score:
  """Shares of the images of a kind."""

  accuracy: float  # That follow their prompt.
  strict: float  # And show nothing else.
  chance: float  # That follow another prompt, in accuracy's sense.
  images: int


def prompts(per_kind: int, seed: int = 0) -> list[Prompt]:
  """Held-out prompts of every kind; repeated only where there are too few."""
  chosen = []
  for number, kind in enumerate(KINDS):
    everything = [
      Prompt(text, requirement)
      for requirement, texts in captions(kind, 'heldout')
      for text in texts
    ]
    order = np.random.default_rng((seed, number)).permutation(len(everything))
    chosen += itertools.islice(
      itertools.cycle([everything[i] for i in order]), per_kind
    )
  return chosen


def follows(requirement: Requirement, detected: Sequence[Detected]) -> bool:
  """Whether the image shows what is asked for, by GenEval's rule."""
  detected = sorted(detected, key=lambda thing: -thing.overlap)
  groups = []
  for want in requirement.wants:
    same = [thing for thing in detected if thing.shape == want.shape]
    group = same[: want.count]
    if len(group) < want.count:
      return False
    if requirement.kind == 'counting' and len(same) > want.count:
      return False
    if want.color and any(thing.color != want.color for thing in group):
      return False
    groups.append(group)
  if requirement.relation:
    (first,), (second,) = groups
    return requirement.relation in relations(first, second)
  return True


def follows_strictly(
  requirement: Requirement, detected: Sequence[Detected]
) -> bool:
  """The same, and the image shows no other object."""
  count = sum(want.count for want in requirement.wants)
  return len(detected) == count and follows(requirement, detected)


def relations(first: Detected, second: Detected) -> set[str]:
  """On which sides of `second` the object `first` lies."""
  offset = np.array([first.x - second.x, first.y - second.y])
  # The box of `Detected` is taken for a square.
  margin = POSITION_MARGIN * 2 * (first.radius + second.radius)
  clear = np.maximum(np.abs(offset) - margin, 0) * np.sign(offset)
  if not clear.any():
    return set()
  dx, dy = clear / np.linalg.norm(offset)
  sides = {
    'left of': dx < -0.5,
    'right of': dx > 0.5,
    'above': dy < -0.5,
    'below': dy > 0.5,
  }
  return {side for side, holds in sides.items() if holds}


def score(
  images: Sequence[UInt8[np.ndarray, 'y x 3']] | UInt8[np.ndarray, 'b y x 3'],
  prompts: Sequence[Prompt],
  seed: int = 0,
) -> dict[str, Score]:
  """A score for each kind and 'overall', the mean of the kinds.

  Chance is the accuracy of the same images against other prompts, shuffled
  by the seed.
  """
  if len(images) != len(prompts):
    raise ValueError(f'{len(images)} images for {len(prompts)} prompts.')
  found = [detect(np.asarray(image)) for image in images]
  wants = [prompt.requirement for prompt in prompts]
  right = np.array([follows(w, f) for w, f in zip(wants, found)])
  strict = np.array([follows_strictly(w, f) for w, f in zip(wants, found)])
  chance = _chance(wants, found, np.random.default_rng(seed))
  scores = {}
  for kind in KINDS:
    rows = [i for i, prompt in enumerate(prompts) if prompt.kind == kind]
    if rows:
      scores[kind] = Score(
        *(float(x[rows].mean()) for x in (right, strict, chance)), len(rows)
      )
  means = (
    float(np.mean([getattr(s, name) for s in scores.values()]))
    for name in ('accuracy', 'strict', 'chance')
  )
  return scores | {'overall': Score(*means, len(prompts))}


def _chance(wants, found, rng):
  """For each prompt, the share of other prompts' images that follow it."""
  count = len(wants)
  if count < 2:
    return np.zeros(count)
  # Turning one shuffled circle never gives an image its own prompt back.
  circle = rng.permutation(count)
  hits = np.zeros(count)
  turns = rng.permutation(np.arange(1, count))[:CHANCE_ROUNDS]
  for turn in turns:
    for i, j in zip(circle, np.roll(circle, turn)):
      hits[i] += follows(wants[i], found[j])
  return hits / len(turns)


def table(scores: dict[str, Score]) -> str:
  """The scores as lines of text."""
  lines = [
    f'{"kind":<12} {"score":>6} {"strict":>6} {"chance":>6} {"images":>6}'
  ]
  lines += [
    f'{kind:<12} {s.accuracy:6.3f} {s.strict:6.3f} {s.chance:6.3f} '
    f'{s.images:6d}'
    for kind, s in scores.items()
  ]
  return '\n'.join(lines)
