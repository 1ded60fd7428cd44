"""Decoding of large pictures in strips of rows, equal to the untiled decode.

The receptive field of convolutions exceeds a strip by a few rows, so each strip
is computed with that halo of its neighbours, which is then cut off. Attention
depends on all rows, but only through a state that is a sum over them: a first
pass over the strips accumulates it, a second one reads it. The stages without
attention, which hold most of the memory, run back to back in each strip.

On several devices no strips are needed: a mesh with a `sequence` axis shards
the rows (models/autoencoders/dc_ae/coder.py).
"""

from collections.abc import Callable
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from sana_jax.errors import UserError
from sana_jax.kernels import linear_attention
from sana_jax.models.autoencoders.dc_ae import DCAE, resampling
from sana_jax.models.autoencoders.dc_ae.blocks import ResBlock
from sana_jax.typing import Array, Float, PyTree

# Stages run back to back: the halo of all stages without attention is far
# larger than that of the three finest, which hold 98 % of the memory.
_FINEST = 3


@dataclasses.dataclass(frozen=True)
class Strips:
  """Height in pixels of a strip; smaller ones save memory and overlap more."""

  size: int = 256

  def latent(self, compression: int) -> int:
    """The height in latents; UserError unless it is an integer."""
    if self.size < compression or self.size % compression:
      raise UserError(
        f'Strips of {self.size} px do not fit the autoencoder; '
        f'the height must be a multiple of {compression}.',
        key='parts',
        value=self.size,
        allowed=f'a multiple of {compression}',
      )
    return self.size // compression


@functools.partial(jax.jit, static_argnums=(0, 3))
def decode(
  model: nn.Module,
  variables: PyTree,
  latents: Float[Array, 'b y x c'],
  strips: Strips = Strips(),
) -> Float[Array, 'b y2 x2 3']:
  """Images of unscaled latents, equal to `model.decode` up to rounding.

  Raises UserError for another autoencoder, of unknown receptive field.
  """
  if not isinstance(model, DCAE):
    raise UserError(
      f'Strips are for DC-AE, and the autoencoder is '
      f'{type(model).__name__}; decode it in tiles.',
      key='parts',
      value=type(model).__name__,
      allowed=('DCAE',),
    )
  rows = strips.latent(model.compression)
  if latents.shape[1] <= rows:
    return model.apply(variables, latents, method='decode')
  decoder, variables = model.clone(remat=False).bind(variables).decoder.unbind()
  last = len(decoder.widths) - 1
  local = _local_stages(decoder)
  x = decoder.apply(variables, latents, last=last + 1)
  for s in reversed(range(local, last + 1)):
    for name, make in decoder.parts(s):
      x = _part(
        make(parent=None),
        _of(variables, f'stage_{s}', name),
        x,
        rows << (last - s),
      )
  level = min(local, last)  # The latents have the size of stage `last`.
  return in_strips(
    lambda x: decoder.apply(variables, x, first=local - 1),
    x,
    rows << (last - level),
    _reach(decoder, local),
    1 << level,
  )


def in_strips(
  run: Callable[[Array], Array],
  x: Float[Array, 'b y x c'],
  rows: int,
  reach: int,
  scale: int = 1,
) -> Float[Array, 'b y2 x2 d']:
  """run(x), computed for `rows` rows of x at a time.

  `run` returns `scale` rows for each row of its input, which depend on rows at
  most `reach` away.
  """
  windows = _Windows(x.shape[1], rows, reach)
  shape = jax.eval_shape(run, x)

  def body(i, out):
    start, begin = windows.place(i)
    y = run(jax.lax.dynamic_slice_in_dim(x, begin, windows.size, 1))
    own = jax.lax.dynamic_slice_in_dim(
      y, (start - begin) * scale, windows.rows * scale, 1
    )
    return jax.lax.dynamic_update_slice_in_dim(out, own, start * scale, 1)

  return jax.lax.fori_loop(
    0, windows.count, body, jnp.zeros(shape.shape, shape.dtype)
  )


class _Windows:
  """Windows of one size, each with its own rows and their halo.

  At the edge a window is moved inwards to end with the picture, so that its
  zero padding there is that of the whole picture.
  """

  def __init__(self, height, rows, reach):
    self.height, self.rows, self.reach = height, min(rows, height), reach
    self.size = min(height, self.rows + 2 * reach)
    self.count = -(-height // self.rows)

  def place(self, i):
    """(first own row, first row of the window) of window i."""
    start = jnp.minimum(i * self.rows, self.height - self.rows)
    return start, jnp.clip(start - self.reach, 0, self.height - self.size)

  def own(self, i):
    """Mask of the rows that belong to window i and to no earlier one."""
    row = self.place(i)[1] + jnp.arange(self.size)
    return (row >= i * self.rows) & (row < (i + 1) * self.rows)


def _part(module, variables, x, rows):
  """Output of one module of a stage with attention, `rows` at a time."""
  run = lambda x: module.apply(variables, x)
  if isinstance(module, resampling.Up):
    return in_strips(run, x, rows // 2, 1, 2)
  if isinstance(module, ResBlock):
    return in_strips(run, x, rows, 2)
  reach = max([0, *module.scales]) // 2
  state = _attention_state(module, variables, x, rows, reach)
  read = lambda q, k, v: linear_attention.read(q, state).astype(v.dtype)
  # 1 more for the convolution of the Mix-FFN.
  return in_strips(
    lambda x: module.apply(variables, x, attend=read), x, rows, reach + 1
  )


def _attention_state(block, variables, x, rows, reach):
  """Attention state of the whole picture, summed over its strips."""
  windows = _Windows(x.shape[1], rows, reach)

  def of(i):
    window = jax.lax.dynamic_slice_in_dim(
      x, windows.place(i)[1], windows.size, 1
    )
    own = jnp.repeat(windows.own(i), x.shape[2])[:, None, None]
    states = []

    def note(q, k, v):
      states.append(linear_attention.state(jnp.where(own, k, 0), v))
      return v

    block.apply(variables, window, attend=note)  # The result is unused.
    return states[0]

  zero = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of, 0)
  )
  return jax.lax.fori_loop(
    0, windows.count, lambda i, sum: jax.tree.map(jnp.add, sum, of(i)), zero
  )


def _local_stages(decoder):
  """Number of stages, from the finest on, that run back to back in a strip."""
  most = min(_FINEST, len(decoder.blocks))
  for s in range(most):
    if decoder.depths[s] and decoder.blocks[s] != 'ResBlock':
      return s
  return most


def _reach(decoder, local):
  """Receptive field of the last `local` stages, in rows of their input."""
  reach = 1  # Of conv_out, also if it doubles the size.
  for s in range(local):
    reach += 2 * decoder.depths[s]
    if any(name == 'up_0' for name, _ in decoder.parts(s)):
      reach = -(-reach // 2) + 1
  return reach


def _of(variables, *path):
  """The variables of a submodule, in every collection that has some."""
  out = {}
  for name, tree in variables.items():
    for key in path:
      tree = tree.get(key, {})
    if tree:
      out[name] = tree
  return out
