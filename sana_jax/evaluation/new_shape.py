"""A shape that no model of `shapes` has seen: for fine-tuning on few pictures.

The autoencoder draws a diamond and a hexagon well, so a model can learn the
word from a few pictures of it. Scores are those of the suite, with a template
of the new shape in the detector.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools

import numpy as np

from sana_jax.data.shapes import (
  captions,
  COLORS,
  compose,
  KINDS,
  NEW_SHAPES,
  phrasings,
  render,
  Requirement,
  requirements,
  Want,
)
from sana_jax.evaluation.shapes_suite import Prompt
from sana_jax.typing import Image

ALONE = ('single', 'colors')  # Kinds of prompts with one such object.
_REPLACED = 'star'


def pictures(shape: str, count: int, seed: int) -> list[tuple[Image, str]]:
  """(image of 128 px, caption) of single objects.

  Captions name the colour of one in each, and of the following ones none.
  """
  rng = np.random.default_rng((seed, NEW_SHAPES.index(shape)))
  out = []
  for color, _ in itertools.zip_longest(COLORS[:count], range(count)):
    kind = 'colors' if color else 'single'
    requirement = Requirement(kind, (Want(shape, color),))
    texts = phrasings(requirement)
    caption = texts[rng.integers(len(texts))]
    out.append((render(compose(requirement, caption, rng), 128), caption))
  return out


def prompts(shape: str, kinds: Iterable[str], count: int) -> list[Prompt]:
  """`count` prompts of each kind, with the new shape in each.

  They are those of `shapes` with a star, which the shape replaces.
  """
  out = []
  for number, kind in enumerate(kinds):
    every = [
      Prompt(text, requirement)
      for known in requirements(kind)
      if (requirement := _replaced(known, shape)) != known
      for text in phrasings(requirement)
    ]
    order = np.random.default_rng(number).permutation(len(every))
    chosen = itertools.cycle(every[i] for i in order)
    out += itertools.islice(chosen, count)
  return out


def class_prompts(per_kind: int, seed: int) -> list[str]:
  """Training captions of each kind, whose pictures preserve the prior."""
  rng, out = np.random.default_rng(seed), []
  for kind in KINDS:
    texts = [text for _, every in captions(kind, 'train') for text in every]
    out += [texts[i] for i in rng.permutation(len(texts))[:per_kind]]
  return out


def _replaced(requirement: Requirement, shape: str) -> Requirement:
  """The requirement with the new shape in the place of a star."""
  wants: Sequence[Want] = [
    dataclasses.replace(want, shape=shape) if want.shape == _REPLACED else want
    for want in requirement.wants
  ]
  return dataclasses.replace(requirement, wants=tuple(wants))
