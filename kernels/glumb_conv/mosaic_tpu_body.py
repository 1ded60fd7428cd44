"""Bodies of the TPU kernels of the gated convolution: one grid step.

Rows are counted from the tile's first: a scratch of `reach` r holds rows -r to
rows + r. Columns of a scratch begin at MARGIN, so that whole rows are stored
at a multiple of eight sublanes. Values outside of the picture are zero.
"""

import dataclasses

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

_reciprocal = getattr(pltpu, 'reciprocal', None) or pl.reciprocal  # jax 0.10
LANES, SUBLANES = 128, 8
MARGIN = SUBLANES
STRIP = 32  # Columns computed at once: more would not stay in registers.


@dataclasses.dataclass(frozen=True)
class Tile:
  """Some rows of a picture [height width 2*channels].

  Attributes:
    halo: whether x has `reach` rows of its neighbours on each side, too.
    buffers: 2 to prefetch the next tile, 1 if there is no room for it.
  """

  height: int
  width: int
  channels: int
  rows: int
  halo: bool
  buffers: int = 2

  @property
  def count(self) -> int:
    return pl.cdiv(self.height, self.rows)

  @property
  def padded_width(self) -> int:
    return 2 * MARGIN + _up(self.width, SUBLANES)

  def block(self, reach: int) -> int:
    """Rows that are read for a tile and `reach` more on each side."""
    return min(self.rows + 2 * reach, self.height + 2 * reach * self.halo)

  def vmem_bytes(self, reach: int, itemsize: int) -> int:
    """VMEM bytes of a kernel, forward (reach 1) or backward (reach 2)."""
    columns = _up(self.width, SUBLANES * 4 // itemsize)
    half = itemsize * columns * _up(self.channels, LANES)
    row = itemsize * columns * _up(2 * self.channels, LANES)
    taps = 4 * 2 * 16 * _up(self.channels, LANES)
    scratch = 4 * 2 * LANES * self.padded_width
    if reach == 1:
      return (
        self.buffers * self.block(1) * row
        + 2 * self.rows * half
        + scratch * (self.rows + 2)
        + 2 * taps
      )
    return (
      self.buffers * (self.block(2) * row + self.block(1) * half)
      + 2 * self.rows * row
      + scratch * (3 * self.rows + 8)
      + 4 * taps
    )

  def start(self, i, reach: int):
    """First row that is read for tile i; always within the array."""
    last = self.height + 2 * reach * self.halo - self.block(reach)
    return jnp.clip(i * self.rows - reach * (not self.halo), 0, last)

  def inside(self, i, reach: int):
    """Range (first, end) of a scratch's rows that are in the array."""
    more = reach * self.halo
    first = reach - i * self.rows - more
    return (
      jnp.maximum(first, 0),
      jnp.minimum(first + self.height + 2 * more, self.rows + 2 * reach),
    )

  def offset(self, i, reach: int):
    """Offset from a row of the scratch to its row in the block read."""
    first = i * self.rows - reach * (not self.halo)
    return first - self.start(i, reach)

  def own(self, i):
    """Number of tile i's rows that are within the picture."""
    return jnp.minimum(self.rows, self.height - i * self.rows)


def forward(x_ref, taps_ref, out_ref, s_ref, *, tile: Tile):
  """out = a * silu(g), (a, g) = convolution of silu(x)."""
  i = pl.program_id(1)
  _clear(s_ref)

  def chunk(j, lanes):
    _silu(x_ref, s_ref, None, i, j, lanes, tile)
    taps = _taps(taps_ref, j)

    def row(y, _):
      for x, n in _strips(tile.width):
        a, g = (_convolve(s_ref, half, y, x, n, taps) for half in (0, 1))
        out = a * g * _sigmoid(g)
        out_ref[0, y, pl.ds(x, n), _lanes(j, lanes)] = out[:, :lanes].astype(
          out_ref.dtype
        )

    _loop(0, tile.own(i), row)

  _chunks(tile.channels, chunk)


def backward(
  x_ref,
  dout_ref,
  taps_ref,
  dx_ref,
  dtaps_ref,
  s_ref,
  ds_ref,
  du_ref,
  *,
  tile: Tile,
):
  """dx, and this picture's sum of dtaps, from x and dout."""
  i = pl.program_id(1)
  for ref in (s_ref, ds_ref, du_ref):
    _clear(ref)

  @pl.when(i == 0)
  def _():
    dtaps_ref[...] = jnp.zeros_like(dtaps_ref)

  def chunk(j, lanes):
    _silu(x_ref, s_ref, ds_ref, i, j, lanes, tile)
    _gate_gradient(dout_ref, taps_ref, s_ref, du_ref, i, j, lanes, tile)
    for half in (0, 1):
      _convolution_gradient(
        taps_ref,
        s_ref,
        ds_ref,
        du_ref,
        dx_ref,
        dtaps_ref,
        half,
        i,
        j,
        lanes,
        tile,
      )

  _chunks(tile.channels, chunk)


def _silu(x_ref, s_ref, ds_ref, i, j, lanes, tile):
  """SiLU of x, and its derivative where x is the tile's own."""
  reach = (s_ref.shape[1] - tile.rows) // 2
  first, end = tile.inside(i, reach)
  offset = tile.offset(i, reach)

  def row(y, _):
    for half in (0, 1):
      for x, n in _strips(tile.width):
        at = pl.ds(MARGIN + x, n), pl.ds(0, lanes)
        value = _load(x_ref, y + offset, x, n, half * tile.channels, j, lanes)
        sigmoid = _sigmoid(value)
        s = value * sigmoid
        s_ref[half, y, *at] = s
        if ds_ref is not None:
          # For neighbouring rows it is stored in a row that is not read.
          own = jnp.clip(y - reach, -1, tile.rows) + 1
          ds_ref[half, own, *at] = sigmoid + s - s * sigmoid

  _loop(first, end, row)


def _gate_gradient(dout_ref, taps_ref, s_ref, du_ref, i, j, lanes, tile):
  """Gradients of a and g for the tile's rows and one more on each side."""
  first, end = tile.inside(i, 1)
  offset = tile.offset(i, 1)
  taps = _taps(taps_ref, j)

  def row(y, _):
    for x, n in _strips(tile.width):
      a, g = (_convolve(s_ref, half, y, x, n, taps) for half in (0, 1))
      dout = _load(dout_ref, y + offset, x, n, 0, j, lanes)
      a, g = a[:, :lanes], g[:, :lanes]
      sigmoid = _sigmoid(g)
      silu = g * sigmoid
      at = pl.ds(MARGIN + x, n), pl.ds(0, lanes)
      du_ref[0, y, *at] = dout * silu
      du_ref[1, y, *at] = dout * a * (sigmoid + silu - silu * sigmoid)

  _loop(first, end, row)


def _convolution_gradient(
  taps_ref, s_ref, ds_ref, du_ref, dx_ref, dtaps_ref, half, i, j, lanes, tile
):
  """dx of one half, and its part of dtaps.

  Both are sums over positions and their neighbours in du, seen from x:
  dx[p] = silu'(x[p]) sum_d taps[d] du[p - d], dtaps[d] = sum_p s[p] du[p - d].
  """
  taps = _taps(taps_ref, j)[half]

  def row(y, sums):
    for x, n in _strips(_up(tile.width, SUBLANES)):
      here = pl.ds(MARGIN + x, n)
      s = s_ref[half, y + 2, here]
      grad, new = None, []
      for d, ((dy, dx), tap) in enumerate(zip(_NEIGHBOURS, taps)):
        du = du_ref[half, y + 1 - dy, pl.ds(MARGIN + x - dx, n)]
        grad = du * _spread(tap, n) + (0 if grad is None else grad)
        new.append(sums[d] + _fold(s * du))
        if (dy, dx) == (0, 0):
          dbias = sums[9] + _fold(du)
      sums = (*new, dbias)
      _store(
        dx_ref,
        y,
        x,
        min(n, tile.width - x),
        half * tile.channels,
        j,
        lanes,
        grad * ds_ref[half, y + 1, here],
      )
    return sums

  zero = jnp.zeros((SUBLANES, LANES), jnp.float32)
  sums = _loop(0, tile.own(i), row, (zero,) * 10)
  for d, total in enumerate(sums):
    dtaps_ref[0, half, pl.ds(d, 1), _lanes(j, LANES)] += jnp.sum(
      total, axis=0, keepdims=True
    )


def _sigmoid(a):
  # Two Newton steps from the chip's estimate, without a division's further
  # operations for infinities and denormals: exp(80) is far from both.
  d = 1 + jnp.exp(jnp.minimum(-a, 80.0))
  guess = _reciprocal(d, approx=True)
  for _ in range(2):
    guess *= 2 - d * guess
  return guess


_NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))


def _convolve(s_ref, half, y, x, n, taps):
  """Row y of the convolution, from rows y to y + 2 of the scratch."""
  *taps, out = (_spread(t, n) for t in taps[half])
  for (dy, dx), tap in zip(_NEIGHBOURS, taps):
    out += tap * s_ref[half, y + 1 + dy, pl.ds(MARGIN + x + dx, n)]
  return out


def _taps(taps_ref, j):
  """Nine taps and a bias of both halves' chunk j, each [1 lanes]."""
  return [
    [taps_ref[half, pl.ds(d, 1), _lanes(j, LANES)] for d in range(10)]
    for half in (0, 1)
  ]


def _spread(tap, n):
  return jnp.broadcast_to(tap, (n, LANES))


def _fold(a):
  """Sums [n lanes] to a register's [8 lanes]."""
  return jnp.sum(a.reshape(-1, SUBLANES, LANES), axis=0)


def _clear(ref):
  def row(y, _):
    for half in (0, 1):
      ref[half, y] = jnp.zeros(ref.shape[2:], ref.dtype)

  _loop(0, ref.shape[1], row)


def _chunks(channels, chunk):
  """Calls chunk(index, lanes) for 128 lanes at a time; fewer in the last."""
  whole, rest = divmod(channels, LANES)
  if whole:
    _loop(0, whole, lambda j, _: chunk(j, LANES))
  if rest:
    chunk(whole, rest)


def _strips(width):
  return [(x, min(STRIP, width - x)) for x in range(0, width, STRIP)]


def _lanes(tile, size):
  """Slice of `size` lanes from this tile of 128 on."""
  start = tile * LANES
  if not isinstance(tile, int):
    start = pl.multiple_of(start, LANES)
  return pl.ds(start, size)


def _load(ref, y, x, n, start, j, lanes):
  """Loads lanes start + 128 j, ..., in float32."""
  tile, shift = divmod(start, LANES)
  size = lanes if not shift else min(2 * LANES, shift + lanes)
  value = ref[0, y, pl.ds(x, n), _lanes(tile + j, size)]
  return value[:, shift : shift + lanes].astype(jnp.float32)


def _store(ref, y, x, n, start, j, lanes, value):
  """The inverse of _load, for the first n of the columns in `value`."""
  tile, shift = divmod(start, LANES)
  at = 0, y, pl.ds(x, n)
  if not shift or lanes < LANES:  # Aligned, or a static j.
    place = (
      _lanes(tile + j, lanes) if not shift else pl.ds(start + j * LANES, lanes)
    )
    ref[*at, place] = value[:n, :lanes].astype(ref.dtype)
    return
  value = pltpu.roll(value, shift, 1)[:n].astype(ref.dtype)
  lane = jax.lax.broadcasted_iota(jnp.int32, value.shape, 1)
  place = *at, _lanes(tile + j, LANES)
  ref[place] = jnp.where(lane < shift, ref[place], value)
  ref[*at, _lanes(tile + j + 1, shift)] = value[:, :shift]


def _loop(first, end, f, carry=None):
  return jax.lax.fori_loop(first, end, f, carry)


def _up(size, multiple):
  return pl.cdiv(size, multiple) * multiple
