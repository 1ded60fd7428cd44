"""Scores pictures of `shapes` by how much of their prompt they show.

`follows` of the suite is right or wrong; to choose among candidates, those
that are wrong differ too, and those that are right may be cleaner.
"""

from collections.abc import Sequence

import numpy as np

from sana_jax.data.shapes import meaning, Requirement
from sana_jax.errors import UserError
from sana_jax.evaluation.shapes_detector import detect, Detected
from sana_jax.evaluation.shapes_suite import follows, relations
from sana_jax.typing import Float, Images


def score(prompts: Sequence[str], images: Images) -> Float[np.ndarray, 'b']:
  """The grade of each picture."""
  return np.array(
    [
      grade(read(prompt), detect(image))
      for prompt, image in zip(prompts, images)
    ]
  )


def read(prompt: str) -> Requirement:
  """What a prompt asks for; raises UserError for no caption of `shapes`."""
  if (asked := meaning(prompt)) is None:
    raise UserError(
      f'The scorer shapes cannot read {prompt!r}; it reads captions such as '
      "'a red circle left of a blue square' and 'three green stars'."
    )
  return asked


score.check = read


def grade(requirement: Requirement, detected: Sequence[Detected]) -> float:
  """In [0, 1], and .5 or more just where the picture follows the prompt.

  Half of it says whether it does; the other half is the mean of what there is
  of the objects, of their colours and of the relation, of how few other objects
  there are, and of how closely those asked for resemble their shapes.
  """
  wants = requirement.wants
  asked = sum(want.count for want in wants)
  detected = sorted(detected, key=lambda thing: -thing.overlap)
  groups = [
    [thing for thing in detected if thing.shape == want.shape][: want.count]
    for want in wants
  ]
  shown = [thing for group in groups for thing in group]
  parts = [
    np.mean([len(g) / want.count for want, g in zip(wants, groups)]),
    asked / max(asked, len(detected)),
    np.mean([thing.overlap for thing in shown]) if shown else 0.0,
  ]
  if colored := [(want, g) for want, g in zip(wants, groups) if want.color]:
    parts.append(
      np.mean(
        [
          sum(thing.color == want.color for thing in group) / want.count
          for want, group in colored
        ]
      )
    )
  if requirement.relation:
    parts.append(len(shown) == 2 and requirement.relation in relations(*shown))
  return float(follows(requirement, detected) + np.mean(parts)) / 2
