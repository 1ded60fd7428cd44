"""Scorers by name: shipped ones, models in folders, a user's MODULE:FUNCTION.

A scorer is a function of (prompts, uint8 images [b y x 3]) that returns a
number for each, or of (prompts, images, images) that returns for each pair
whether the first is better; see sana_jax/inference/verify.py. It may have an
attribute `check`, a function that raises UserError for unsupported prompts,
which is called before sampling.
"""

from collections.abc import Callable
import importlib

from sana_jax.errors import UserError
from sana_jax.inference.verify import is_comparator

SHIPPED = {'shapes': 'sana_jax.evaluation.shapes_scorer:score'}

# Functions of (name, key) that make the scorer of a name KIND:DIR.
PREFIXES = {
  'clip': 'sana_jax.evaluation.clip_scorer:make',
  'nvila': 'sana_jax.evaluation.nvila:make',
}
NAMES = (*SHIPPED, *(f'{kind}:DIR' for kind in PREFIXES))


def load(name: str, key: str = '--scorer') -> Callable:
  """The scorer with this name; raises UserError with `key` if there is none."""
  kind, colon, _ = name.partition(':')
  if colon and kind in PREFIXES:
    module, _, function = PREFIXES[kind].partition(':')
    return getattr(importlib.import_module(module), function)(name, key)
  module, colon, function = SHIPPED.get(name, name).partition(':')
  if not (module and colon and function):
    raise UserError(
      f'{key} is {name!r}; allowed are {", ".join(NAMES)}, or '
      'MODULE:FUNCTION for your own.',
      key=key,
      value=name,
      allowed=NAMES,
    )
  try:
    found = getattr(importlib.import_module(module), function, None)
  except Exception as e:  # The user's module may raise anything.
    reason = (str(e).strip().splitlines() or [''])[0]
    raise UserError(
      f'The scorer {name} cannot be imported ({type(e).__name__}: {reason}); '
      'its folder must be in PYTHONPATH.',
      key=key,
      value=name,
      allowed='modules in PYTHONPATH',
    ) from e
  if not callable(found):
    raise UserError(
      f'The scorer {name} cannot be used: {module} has no function {function}.',
      key=key,
      value=name,
      allowed=f'functions of {module}',
    )
  is_comparator(found, key)  # Raises UserError for another signature.
  return found


def check(scorer: Callable, prompt: str) -> None:
  """Raises UserError for a prompt that the scorer does not support."""
  getattr(scorer, 'check', lambda prompt: None)(prompt)
