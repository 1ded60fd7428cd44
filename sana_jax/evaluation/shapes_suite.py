"""Scores of prompt following on `shapes` by GenEval's rules.

The rules are those of GenEval's evaluate_images.py
(github.com/djghosh13/geneval), with the objects of each shape sorted by
confidence:

- the image contains the requested number of objects of each shape;
- if a colour is given, the `count` most confident objects of that shape all
  have it (a red circle does not compensate for a more confident blue one);
- counting: there are no more objects of that shape;
- position: the first object is on that side of the second. The offset of the
  centres, reduced by a tenth of both boxes' sides (`POSITION_MARGIN`), must be
  more than half of the total distance along the requested axis.

Other objects are ignored, except in counting. The strict rule requires that
there are no other objects. Our confidence is the overlap with the shape's
template, and the two shapes of a prompt always differ.
"""

from collections.abc import Collection, Sequence
import dataclasses
import itertools

import numpy as np

from sana_jax.data.shapes import captions, KINDS, Requirement, SHAPES
from sana_jax.evaluation.shapes_detector import detect, Detected
from sana_jax.printable import counted
from sana_jax.typing import UInt8

POSITION_MARGIN = 0.1
# Number of other prompts against which an image is scored for the chance level.
CHANCE_ROUNDS = 32


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A held-out caption and its requirement."""

  text: str
  requirement: Requirement

  @property
  def kind(self) -> str:
    return self.requirement.kind


@dataclasses.dataclass(frozen=True)
class Score:
  """Fractions of the images of a kind."""

  accuracy: float  # Images that follow their prompt.
  strict: float  # Images that also show no other objects.
  chance: float  # Images that follow another prompt, as for `accuracy`.
  images: int


def prompts(per_kind: int, seed: int = 0) -> list[Prompt]:
  """Held-out prompts of every kind, repeated only if there are too few."""
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
  """Whether the image satisfies the requirement, by GenEval's rule."""
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
  """Whether the image satisfies the requirement and shows no other object."""
  count = sum(want.count for want in requirement.wants)
  return len(detected) == count and follows(requirement, detected)


def relations(first: Detected, second: Detected) -> set[str]:
  """Positions of `first` relative to `second`."""
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
  shapes: Collection[str] = SHAPES,
) -> dict[str, Score]:
  """Score of each kind and 'overall', the mean of the kinds.

  The chance level is the accuracy of the same images with other prompts,
  shuffled by the seed. `shapes` are those that the detector has.
  """
  if len(images) != len(prompts):
    raise ValueError(
      f'{counted(len(images), "image")} for {counted(len(prompts), "prompt")}.'
    )
  found = [detect(np.asarray(image), shapes) for image in images]
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
  """Fraction of other prompts' images that follow each prompt."""
  count = len(wants)
  if count < 2:
    return np.zeros(count)
  # Rolling one permutation never pairs an image with its own prompt.
  circle = rng.permutation(count)
  hits = np.zeros(count)
  turns = rng.permutation(np.arange(1, count))[:CHANCE_ROUNDS]
  for turn in turns:
    for i, j in zip(circle, np.roll(circle, turn)):
      hits[i] += follows(wants[i], found[j])
  return hits / len(turns)


def table(scores: dict[str, Score]) -> str:
  """Text table of the scores."""
  lines = [
    f'{"kind":<12} {"score":>6} {"strict":>6} {"chance":>6} {"images":>6}'
  ]
  lines += [
    f'{kind:<12} {s.accuracy:6.3f} {s.strict:6.3f} {s.chance:6.3f} '
    f'{s.images:6d}'
    for kind, s in scores.items()
  ]
  return '\n'.join(lines)
