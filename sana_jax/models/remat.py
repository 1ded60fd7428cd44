"""What of a block is kept for the backward pass, by name.

  none     all that it needs
  full     its input; all else is computed again
  dots     its input and the products of weights; the rest is computed again
  offload  its input, in the host's memory; all else is computed again

The input of every block is what grows with the depth: 20 to 60 arrays of the
size of the residual stream.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from sana_jax.errors import UserError
from sana_jax.typing import Array

_INPUT = 'block_input'
_POLICIES: dict[str, Callable] = {
  'full': lambda: None,
  'dots': lambda: jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'offload': lambda: jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[_INPUT],
    offload_src='device',
    offload_dst='pinned_host',
  ),
}
NAMES = ('none', *_POLICIES)


def remat(body: Callable, name: str) -> Callable:
  """A scan's body that keeps what `name` says; UserError if unknown."""
  if name not in NAMES:
    raise UserError(
      f'remat={name!r} is unknown; allowed are '
      f'{", ".join(NAMES)} (key: model.remat).'
    )
  if name == 'none':
    return body
  # A scan keeps its iterations apart without CSE's help.
  return nn.remat(body, prevent_cse=False, policy=_POLICIES[name]())


def block_input(x: Array) -> Array:
  """Tells a policy that this is a block's input."""
  return checkpoint_name(x, _INPUT)
