"""Graded score of how well pictures of `shapes` follow their prompts.

`follows` of the suite is binary; a choice among candidates also needs to rank
the wrong ones, and the right ones by cleanness.
"""

from collections.abc import Sequence

import numpy as np

from sana_jax.data.shapes import meaning, Requirement
from sana_jax.errors import UserError
from sana_jax.evaluation.shapes_detector import detect, Detected
from sana_jax.evaluation.shapes_suite import follows, relations
from sana_jax.typing import Float, Images


def score(prompts: Sequence[str], images: Images) -> Float[np.ndarray, 'b']:
  """Grade of each picture."""
  return np.array(
    [
      grade(read(prompt), detect(image))
      for prompt, image in zip(prompts, images)
    ]
  )


def read(prompt: str) -> Requirement:
  """Requirement of a prompt; UserError if it is not a caption of `shapes`."""
  if (requirement := meaning(prompt)) is None:
    raise UserError(
      f'The scorer shapes cannot read {prompt!r}; it reads captions such as '
      "'a red circle left of a blue square' and 'three green stars'.",
      key='prompt',
      value=prompt,
    )
  return requirement


score.check = read


def grade(requirement: Requirement, detected: Sequence[Detected]) -> float:
  """Grade in [0, 1], which is .5 or more iff the picture follows the prompt.

  Half of it is whether the picture follows; the other half is the mean of the
  fractions of objects, of colours and of relations that are present, the
  fraction of objects that are requested, and the overlap of requested objects
  with their shapes.
  """
  wants = requirement.wants
  requested = sum(want.count for want in wants)
  detected = sorted(detected, key=lambda thing: -thing.overlap)
  groups = [
    [thing for thing in detected if thing.shape == want.shape][: want.count]
    for want in wants
  ]
  shown = [thing for group in groups for thing in group]
  parts = [
    np.mean([len(g) / want.count for want, g in zip(wants, groups)]),
    requested / max(requested, len(detected)),
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
