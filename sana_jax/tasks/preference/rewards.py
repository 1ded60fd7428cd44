"""Rewards of pictures, by a scorer that config.nft.reward names."""

from collections.abc import Callable, Sequence

from ml_collections import ConfigDict
import numpy as np

from sana_jax.errors import UserError
from sana_jax.evaluation import scorers
from sana_jax.inference.verify import is_comparator
from sana_jax.printable import counted, printable
from sana_jax.typing import Float, Images

KEY = 'nft.reward'


def load(config: ConfigDict, prompts: Sequence[str]) -> Callable:
  """The scorer of a config; UserError if it does not support the prompts."""
  name = config.nft.reward
  if not name:
    raise UserError(
      f"config.{KEY} is ''; set it to a scorer: "
      f'{", ".join(scorers.NAMES)}, or MODULE:FUNCTION for your own.',
      key=KEY,
      value='',
      allowed=scorers.NAMES,
    )
  found = scorers.load(name, f'config.{KEY}')
  if is_comparator(found):
    raise UserError(
      f'config.{KEY}={name!r} compares two pictures; set it to a function of '
      '(prompts, images).',
      key=KEY,
      value=name,
      allowed='functions of (prompts, images)',
    )
  for prompt in prompts:
    scorers.check(found, prompt)
  return found


def of_pictures(
  scorer: Callable, name: str, prompts: Sequence[str], images: Images
) -> Float[np.ndarray, 'b']:
  """A finite reward of each picture; UserError for anything else."""
  returned = scorer(prompts, images)
  try:
    found = np.asarray(returned, np.float64)
  except (TypeError, ValueError):
    found = np.zeros(0)
  if found.shape != (len(prompts),) or not np.isfinite(found).all():
    raise UserError(
      f'config.{KEY}={name!r} returned {printable(returned, 80)}; it must '
      'return a finite number for each of '
      f'{counted(len(prompts), "picture")}.',
      key=KEY,
      value=returned,
      allowed=(len(prompts),),
    )
  return found
