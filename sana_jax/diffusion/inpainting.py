"""Sampling from an image, and of a part of it.

With data x0 of an image and the noise z of a picture, sampling starts at a time
t below that of pure noise, at the point of the path

  x_t = path(x0, z, t)                                          (2108.01073, 3)

Of a part, given by a mask m that is 1 where the picture is new, each step from
t to s ends with

  x_s <- m x_s + (1 - m) path(x0, z, s)                      (2201.09865, 4.1)

so that the rest is the image at each noise level, and exactly x0 at s = 0. The
noise is that of the start, as in diffusers' inpainting pipelines.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from sana_jax.diffusion.paths import Path
from sana_jax.diffusion.time_grids import TimeGrid
from sana_jax.typing import Array, Bool, Float


class Known(NamedTuple):
  """Data of an image that a picture keeps where `mask` is false."""

  data: Float[Array, '#b *p c']
  noise: Float[Array, 'b *p c']
  mask: Bool[Array, '#b *p 1']


def begin(
  noise: Float[Array, 'b *p c'],
  grid: TimeGrid,
  image: Float[Array, '#b *p c'] | None,
  mask: Bool[Array, '#b *p 1'] | None,
  strength: float | None,
) -> tuple[Float[Array, 'b *p c'], Known | None]:
  """The sample at grid.times[0] over the path's scale, and what is kept.

  It is the noise alone without an image, and at strength 1, whose time the
  grids of some samplers only approach.
  """
  if image is None:
    return noise, None
  known = None if mask is None else Known(image, noise, mask)
  if strength == 1:
    return noise, known
  first = jnp.asarray(grid.times[0], noise.dtype)
  start = grid.path.interpolate(image, noise, first) / grid.path.scale
  return start, known


def keep(known: Known | None, path: Path) -> Callable | None:
  """The function `constrain` of samplers.advance; None if nothing is kept."""
  if known is None:
    return None
  return lambda x, t: jnp.where(
    known.mask, x, path.interpolate(known.data, known.noise, t)
  )
