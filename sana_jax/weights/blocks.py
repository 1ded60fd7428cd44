"""Blocks of a transformer's files: split, joined and selected, without reading.

    {transformer_blocks.3.attn1.to_q.weight: tensor, proj_out.weight: tensor}
      -> [block 0, ..., block 3: {attn1.to_q.weight: tensor}], {proj_out.weight}

Names are those of diffusers. Tensors stay lazy: one is read at a time.
"""

from collections.abc import Collection, Mapping, Sequence
import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.errors import UserError
from sana_jax.weights import kinds, table
from sana_jax.weights.tensors import Stored

PREFIX = 'transformer_blocks.'
_NAME = re.compile(re.escape(PREFIX) + r'(0|[1-9][0-9]{0,5})\.(.+)')
Block = dict[str, Stored]


def trained(
  config: Mapping[str, Any], tensors: Mapping[str, Stored]
) -> tuple[nn.Module, list[Block], dict[str, Stored]]:
  """A transformer's module, its blocks in order, and its other tensors.

  Raises UserError for another model, and for tensors that do not fit it.
  """
  kind = kinds.of_config(config, 'transformer')
  module = kind.module(config, jnp.float32)
  table.match(kind.rules(module), tensors, kind.shapes(module))
  blocks, others = [{} for _ in range(module.depth)], {}
  for name, tensor in tensors.items():
    if match := _NAME.fullmatch(name):
      blocks[int(match[1])][match[2]] = tensor
    else:
      others[name] = tensor
  return module, blocks, others


def joined(
  config: Mapping[str, Any], blocks: Sequence[Block], others: Block
) -> tuple[dict[str, Any], dict[str, Stored]]:
  """The config and the tensors of a transformer of these blocks."""
  named = {
    f'{PREFIX}{i}.{name}': tensor
    for i, block in enumerate(blocks)
    for name, tensor in block.items()
  }
  return {**config, 'num_layers': len(blocks)}, {**others, **named}


def selected(
  config: Mapping[str, Any],
  tensors: Mapping[str, Stored],
  kept: Collection[int],
) -> tuple[dict[str, Any], dict[str, Stored]]:
  """The transformer with only the blocks of these indices, in their order.

  Raises UserError unless they are some of its blocks, and not all.
  """
  module, blocks, others = trained(config, tensors)
  chosen = sorted(set(kept))
  if (
    len(chosen) != len(kept)
    or not 0 < len(chosen) < module.depth
    or not set(chosen) <= set(range(module.depth))
  ):
    allowed = f'different ones of 0 to {module.depth - 1}, and not all'
    raise UserError(
      f'The kept blocks are {sorted(kept)}; allowed are {allowed}.',
      key='--keep',
      value=tuple(kept),
      allowed=allowed,
    )
  return joined(config, [blocks[i] for i in chosen], others)
