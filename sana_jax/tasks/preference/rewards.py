"""Rewards of pictures, by a scorer that config.nft.reward names."""

from collections.abc import Callable, Sequence

from ml_collections import ConfigDict
import numpy as np

from sana_jax.errors import UserError
from sana_jax.evaluation import scorers
from sana_jax.inference.verify import is_comparator
from sana_jax.printable import counted
from sana_jax.typing import Float, Images

KEY = 'nft.reward'


def load(config: ConfigDict, prompts: Sequence[str]) -> Callable:
  """The scorer of a config; UserError if it does not support the prompts."""
  name = config.nft.reward
  if not name:
    raise UserError(
      f"config.{KEY} is ''; set it to a scorer: "
      f'{", ".join(scorers.SHIPPED)}, or MODULE:FUNCTION for your own.',
      key=KEY,
      value='',
      allowed=scorers.SHIPPED,
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
  found = np.asarray(scorer(prompts, images), np.float64)
  if found.shape != (len(prompts),) or not np.isfinite(found).all():
    raise UserError(
      f'config.{KEY}={name!r} returned an array of {found.shape} with '
      f'{int(np.sum(~np.isfinite(found)))} values that are not finite; it must '
      f'return a finite number for {counted(len(prompts), "picture")}.',
      key=KEY,
      value=found.shape,
      allowed=(len(prompts),),
    )
  return found
