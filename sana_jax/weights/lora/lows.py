"""Adapters as in a file: a low-rank update of each layer, in torch's layout.

Layers have diffusers' names with the number of the block, so that a layer of
one block may have a rank and a scale of its own.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import numpy as np

from sana_jax.models.lora import Lora
from sana_jax.tree import leaves
from sana_jax.typing import Params
from sana_jax.weights.lora import names
from sana_jax.weights.transforms import LINEAR, POINTWISE


class Low(NamedTuple):
  """Update of one layer: scale * up @ down.

  Attributes:
    down: (r, in), or (r, in, h, w) of a convolution.
    up: (out, r), or (out, r, 1, 1).
    scale: alpha / r, or as the file has it.
    magnitude: (out,) of DoRA, or None.
  """

  down: np.ndarray
  up: np.ndarray
  scale: float
  magnitude: np.ndarray | None = None

  @property
  def rank(self) -> int:
    return self.down.shape[0]


Lows = Mapping[str, Low]


def of_factors(
  module: nn.Module, lora: Lora, factors: Params
) -> dict[str, Low]:
  """The update of each layer, from the factors of a run."""
  flat, out = leaves(factors), {}
  for path, layer in names.layers(module).items():
    if path not in lora.ranks:
      continue
    parts = {
      name: np.asarray(flat[f'{path}/{name}'])
      for name in ('down', 'up', 'magnitude')
      if f'{path}/{name}' in flat
    }
    for i in range(layer.depth or 1):
      own = (
        parts if layer.depth is None else {k: x[i] for k, x in parts.items()}
      )
      out[layer.key.format(i=i)] = Low(
        layer.transform.save(own['down']),
        up_transform(layer).save(own['up']),
        lora.scales[path],
        own.get('magnitude'),
      )
  return out


def up_transform(layer: names.Layer):
  """Transform of `up`: (out, r) or (out, r, 1, 1) to [r out]."""
  return LINEAR if layer.transform is LINEAR else POINTWISE
