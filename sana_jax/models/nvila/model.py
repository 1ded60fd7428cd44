"""NVILA (arXiv:2412.04468): SigLIP, a projector and Qwen2, one pass.

A judge's answer is one token, so that there is neither a cache nor generation:
the logits of the first new token are those at the last position. Text and
picture share one sequence, in which IMAGE stands for a token of the picture.
"""

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.models.nvila.projector import Projector
from sana_jax.models.nvila.scales import cut, features, joined, Scales
from sana_jax.models.qwen2 import Qwen2
from sana_jax.models.siglip import SigLIP
from sana_jax.typing import Array, Bool, Float, Int

IMAGE = -1  # In place of a token: the next one of the picture.


class NVILA(nn.Module):
  """Vision tower, projector and language model."""

  tower: SigLIP
  projector: Projector
  llm: Qwen2

  def __call__(
    self,
    tiles: Float[Array, 'b t y x 3'],
    tokens: Int[Array, 'b m'],
    mask: Bool[Array, 'b m'],
    scales: Scales | None = None,
  ) -> Float[Array, 'b v']:
    """Returns logits of the first new token, in float32.

    Args:
      tiles: the picture, normalised; several without `scales` are pictures of
        their own, one after the other.
      tokens: the text with IMAGE for each token of the picture.
      mask: real tokens; padding is on the right.
      scales: arrangement of the tiles, for S2.
    """
    seen = self.seen(tiles, scales)
    at = tokens == IMAGE
    place = jnp.clip(jnp.cumsum(at, axis=1) - 1, 0, seen.shape[1] - 1)
    x = jnp.where(
      at[..., None],
      jnp.take_along_axis(seen, place[..., None], axis=1),
      self.llm.embed(jnp.where(at, 0, tokens)),
    )
    states = self.llm.states(x, mask)
    last = jnp.sum(mask, axis=1) - 1
    states = jnp.take_along_axis(states, last[:, None, None], axis=1)
    return self.llm.logits(states[:, 0])

  def count(self, tiles: int, scales: Scales | None = None) -> int:
    """Number of tokens of a picture with these tiles."""
    tokens = lambda patches: -(-patches // self.projector.merge)
    if scales is None:
      return tiles * tokens(self.tower.side) ** 2
    rows, columns = scales.grids[scales.output]
    if scales.by_tile:
      return rows * columns * tokens(self.tower.side) ** 2
    return tokens(rows * self.tower.side) * tokens(columns * self.tower.side)

  def seen(
    self, tiles: Float[Array, 'b t y x 3'], scales: Scales | None = None
  ) -> Float[Array, 'b s d']:
    """Tokens of the picture."""
    b, t = tiles.shape[:2]
    side = self.tower.side
    x = self.tower(tiles.reshape(b * t, *tiles.shape[2:]))
    if scales is None:
      x = self.projector(x.reshape(b * t, side, side, -1))
      return x.reshape(b, -1, x.shape[-1])
    x = features(x.reshape(b, t, side, side, -1), scales)
    grid = scales.grids[scales.output] if scales.by_tile else (1, 1)
    blocks = cut(x, grid)
    y = self.projector(blocks.reshape(-1, *blocks.shape[2:]))
    x = joined(y.reshape(b, -1, *y.shape[1:]), grid)
    return x.reshape(b, -1, x.shape[-1])
