"""Body of the TPU kernel of the 3x3 convolution: one grid step.

Rows are kept in groups of one or two. A group in scratch is [x r*3*c]: for
each of its rows, the pixels to the left, the pixels themselves and those to
the right, side by side. The groups that an output row reads make one operand
of the matrix unit; the other one holds the taps of all rows of an output
group, with zeros for rows outside its reach.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

LANES, SUBLANES = 128, 8
MARGIN = SUBLANES
PACKED = 16  # Pixels of bfloat16 in a register.
PIXELS = 256  # Per matmul: with fewer, loading weights takes as long.


@dataclasses.dataclass(frozen=True)
class Tile:
  """Some rows of a picture [height width channels].

  Attributes:
    rows: rows computed in one grid step; a multiple of `step`.
    group: rows that are computed side by side in the matrix unit's columns.
    halo: whether x has a row of its neighbours above and below, too.
  """

  height: int
  width: int
  channels: int
  features: int
  rows: int
  group: int
  halo: bool

  @property
  def count(self) -> int:
    return pl.cdiv(self.height, self.rows)

  @property
  def block(self) -> int:
    """Rows of x that are read: the tile's and up to two neighbours."""
    return min(self.rows + 2, self.height + 2 * self.halo)

  @property
  def padded_width(self) -> int:
    """Width in whole registers, so that an operand's rows are contiguous."""
    return pl.cdiv(self.width, PACKED) * PACKED

  @property
  def together(self) -> int:
    """Groups whose pixels form one operand."""
    return max(1, PIXELS // self.padded_width)

  @property
  def step(self) -> int:
    """Rows that are computed at once."""
    return self.together * self.group

  @property
  def seen(self) -> int:
    """Input groups that one output group is computed from."""
    return 1 + 2 // self.group

  def vmem_bytes(self, itemsize: int, residual: bool) -> int:
    """VMEM bytes of a grid step."""
    c, o = self.channels, self.features
    pixels = (self.rows + 2) * self.padded_width
    weights = self.seen * self.group * 3 * c * self.group * o
    sums = 4 * self.step * self.padded_width * o
    # Two buffers each of x, of the result and of the residual.
    return (
      itemsize * (pixels * (2 * c + (2 + 2 * residual) * o + 3 * c) + weights)
      + 4 * (self.padded_width + 2 * MARGIN) * c * self.group
      + 3 * sums
    )

  def start(self, i):
    """First row that is read for tile i; always within the array."""
    last = self.height + 2 * self.halo - self.block
    return jnp.clip(i * self.rows - (not self.halo), 0, last)


def forward(
  x_ref, kernel_ref, vectors_ref, *refs, tile: Tile, finish: Callable
):
  """out = finish(convolution of x, vectors [2 o], residual), row by row.

  A shifted row is used in the same iteration: only then does the compiler
  overlap one row's shifts with another row's matmul.
  """
  *residual_ref, out_ref, columns_ref, shifted_ref = refs
  i = pl.program_id(1)
  columns_ref[...] = jnp.zeros_like(columns_ref)
  ahead = tile.seen - 1
  for p in range(ahead):
    _shift(x_ref, columns_ref, shifted_ref, i, p, tile)

  def step(j, _):
    first = j * tile.together
    for p in range(tile.together):
      _shift(x_ref, columns_ref, shifted_ref, i, first + p + ahead, tile)
    sums = _convolve(kernel_ref, shifted_ref, first, tile)
    vectors = vectors_ref[...]
    for p in range(tile.together):
      for r in range(tile.group):
        at = 0, (first + p) * tile.group + r
        x, o = p * tile.padded_width, r * tile.features
        row = sums[x : x + tile.width, o : o + tile.features]
        out_ref[at] = finish(
          row, vectors, *(ref[at] for ref in residual_ref)
        ).astype(out_ref.dtype)

  jax.lax.fori_loop(0, tile.rows // tile.step, step, None)


def _shift(x_ref, columns_ref, shifted_ref, i, p, tile):
  """Fills group p; zeros for rows outside of the picture.

  Goes through float32, where a load may begin at any pixel, 128 channels at a
  time, because the pixels of more channels are not contiguous.
  """
  for r in range(tile.group):
    y = i * tile.rows - (not tile.halo) + p * tile.group + r - tile.start(i)
    inside = (y >= 0) & (y < tile.block)
    row = x_ref[0, jnp.clip(y, 0, tile.block - 1)]
    row = jnp.where(inside, row, jnp.zeros_like(row))
    first = r * 3 * tile.channels
    shifted_ref[
      p, pl.ds(0, tile.width), pl.ds(first + tile.channels, tile.channels)
    ] = row
    for c in range(0, tile.channels, LANES):
      column = r * tile.channels // LANES + c // LANES
      columns_ref[column, pl.ds(MARGIN, tile.width)] = row[
        :, c : c + LANES
      ].astype(jnp.float32)
      for dx in (-1, 1):
        lanes = pl.ds(first + (1 + dx) * tile.channels + c, LANES)
        shifted_ref[p, :, lanes] = columns_ref[
          column, pl.ds(MARGIN + dx, tile.padded_width)
        ].astype(shifted_ref.dtype)


def _convolve(kernel_ref, shifted_ref, first, tile):
  """Convolves the groups from `first` on: [together*x group*o] in float32."""
  pixels = tile.together * tile.padded_width
  seen = [
    shifted_ref[pl.ds(first + d, tile.together)].reshape(pixels, -1)
    for d in range(tile.seen)
  ]
  full = kernel_ref.dtype == jnp.float32
  return jnp.dot(
    jnp.concatenate(seen, axis=-1),
    kernel_ref[...],
    precision=jax.lax.Precision.HIGHEST if full else None,
    preferred_element_type=jnp.float32,
  )


def silu(sums, vectors):
  """silu(sums + bias); vectors are (bias, unused)."""
  return jax.nn.silu(sums + vectors[:1])


def norm(sums, vectors, residual, *, eps):
  """residual + sums / rms * scale + shift; vectors are (scale, shift)."""
  mean = jnp.mean(sums * sums, axis=-1, keepdims=True)
  y = sums * jax.lax.rsqrt(mean + eps) * vectors[:1] + vectors[1:]
  return residual.astype(jnp.float32) + y
