"""Remat policies: which activations of a block the backward pass reuses.

  none     all that it needs
  full     its input; the rest is recomputed
  dots     its input and the matmuls with weights; the rest is recomputed
  offload  its input, in the host's memory; the rest is recomputed

Inputs of blocks grow with the depth: 20 to 60 arrays of the size of the
residual stream.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from sana_jax.errors import did_you_mean, UserError
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
  """Wraps a scan's body in the policy `name`; UserError if it is unknown."""
  if name not in NAMES:
    raise UserError(
      f'remat={name!r} is unknown{did_you_mean(name, NAMES)}; allowed are '
      f'{", ".join(NAMES)} (key: model.remat).',
      key='model.remat',
      value=name,
      allowed=NAMES,
    )
  if name == 'none':
    return body
  # A scan separates its iterations; barriers against CSE are not needed.
  return nn.remat(body, prevent_cse=False, policy=_POLICIES[name]())


def block_input(x: Array) -> Array:
  """Marks a block's input for the policies."""
  return checkpoint_name(x, _INPUT)
