"""CAME with its momentum in bytes: SANA-1.5's 8-bit CAME (2501.18427).

The equations are those of came.py. Between steps m, the only state as large as
the parameters, is quantized by blockwise.py; within a step it is float32, and
the step's instability and update use it before rounding, as in NVlabs/Sana.
Only matrices of more than 16,384 elements per layer are quantized, and the
statistics of rows and columns stay float32.

A matrix also stays float32 if no tile of 256 to 2048 elements divides it, such
as 16411 x 2 (a prime and a pair): the two float32 numbers of a block would add
more than 3 % to its bytes. No published size has such a matrix.
"""

import math

import jax
from jax.typing import ArrayLike
import optax

from sana_jax.optim import blockwise
from sana_jax.optim.blockwise import Quantised
from sana_jax.optim.came import scale_by_came, STACKED

MIN_ELEMENTS = 16_384  # Per layer; matrices up to this size stay float32.
SMALLEST_BLOCK = 256


def came_8bit(
  learning_rate: optax.ScalarOrSchedule,
  b1: ArrayLike = 0.9,
  b2: ArrayLike = 0.999,
  b3: ArrayLike = 0.9999,
  eps1: ArrayLike = 1e-30,
  eps2: ArrayLike = 1e-16,
  clip_threshold: ArrayLike = 1.0,
  weight_decay: ArrayLike = 0.0,
  stacked_pattern: str = STACKED,
  blocks: str = 'elements',
) -> optax.GradientTransformation:
  """`came.came` with m in bytes.

  Args:
    learning_rate: see `came.came`, as for all but the last.
    b1: of m.
    b2: of the second moment.
    b3: of the instability.
    eps1: added to g^2.
    eps2: added to the instability.
    clip_threshold: of the root mean square of u.
    weight_decay: multiplied by the learning rate; applies to every leaf.
    stacked_pattern: pattern of leaves with a leading layer axis.
    blocks: 'elements', the paper's of 2048 elements, or 'rows', the official
      code's of 2048 rows.
  """
  scaled = scale_by_came(
    b1, b2, b3, eps1, eps2, clip_threshold, stacked_pattern
  )
  return optax.chain(
    momentum_in_bytes(scaled, blocks),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_learning_rate(learning_rate),
  )


def momentum_in_bytes(
  tx: optax.GradientTransformation,
  blocks: str = 'elements',
) -> optax.GradientTransformation:
  """Stores the mu of a transformation with a CameState in bytes between steps.

  The mu of a quantized leaf is a Quantised.
  """
  tile_of = blockwise.TILES[blocks]

  def packed(state, pack):
    def leaf(mu, row):
      factored = not isinstance(row, optax.MaskedNode)
      if not factored or not is_stored_in_bytes(mu.shape, blocks):
        return mu
      return pack(mu, tile_of(mu.shape))

    return state._replace(mu=jax.tree.map(leaf, state.mu, state.row))

  def unpacked(state):
    def leaf(mu):
      if not isinstance(mu, Quantised):
        return mu
      return blockwise.dequantise(mu, tile_of(mu.q.shape))

    return state._replace(
      mu=jax.tree.map(
        leaf, state.mu, is_leaf=lambda x: isinstance(x, Quantised)
      )
    )

  def init(params):
    return packed(
      tx.init(params), lambda mu, tile: blockwise.zeros(mu.shape, tile)
    )

  def update(updates, state, params=None):
    updates, state = tx.update(updates, unpacked(state), params)
    return updates, packed(state, blockwise.quantise)

  return optax.GradientTransformation(init, update)


def is_stored_in_bytes(
  shape: tuple[int, ...], blocks: str = 'elements'
) -> bool:
  """Whether the m of a matrix, or of a stack of them, is stored in bytes."""
  tile = blockwise.TILES[blocks](shape)
  return (
    math.prod(shape[-2:]) > MIN_ELEMENTS and math.prod(tile) >= SMALLEST_BLOCK
  )
