"""Scorers by name: those that ship, and a user's own as MODULE:FUNCTION.

A scorer is a function of (prompts, uint8 images [b y x 3]) that gives a number
for each, or of (prompts, images, images) that says of each pair whether the
first is the better one; see sana_jax/inference/verify.py. It may have an
attribute `check`, a function that raises UserError for a prompt that it cannot
read, which is called before anything is made.
"""

from collections.abc import Callable
import importlib

from sana_jax.errors import UserError
from sana_jax.inference.verify import is_comparator

SHIPPED = {'shapes': 'sana_jax.evaluation.shapes_scorer:score'}


def load(name: str) -> Callable:
  """The scorer or judge of that name.

  Raises UserError where there is none.
  """
  module, colon, function = SHIPPED.get(name, name).partition(':')
  if not (module and colon and function):
    raise UserError(
      f'The scorer is {name!r}; allowed are {", ".join(SHIPPED)}, or '
      'MODULE:FUNCTION for one of your own.'
    )
  try:
    found = getattr(importlib.import_module(module), function, None)
  except Exception as e:  # Whatever that module does.
    reason = (str(e).strip().splitlines() or [''])[0]
    raise UserError(
      f'The scorer {name} cannot be imported ({type(e).__name__}: {reason}); '
      'its folder must be in PYTHONPATH.'
    ) from e
  if not callable(found):
    raise UserError(
      f'The scorer {name} cannot be used: {module} has no function {function}.'
    )
  is_comparator(found)  # Raises where it is neither.
  return found


def check(scorer: Callable, prompt: str) -> None:
  """Raises UserError for a prompt that the scorer says it cannot read."""
  getattr(scorer, 'check', lambda prompt: None)(prompt)
