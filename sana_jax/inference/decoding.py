"""Decoding of latents to pictures, at once or in parts, and to 8 bits."""

import functools

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from sana_jax.inference import bins, strip_decoding, tiling
from sana_jax.inference.strip_decoding import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.models.autoencoders import base
from sana_jax.typing import Array, Bool, Float, UInt8

NOT_FINITE = (
  'has NaN or infinity; use float32 or bfloat16, fewer or more steps, or a '
  'lower guidance scale.'
)


def decode(
  module,
  variables,
  latents: Float[Array, 'b y x c'],
  size: tuple[int, int] | None = None,
  parts: Strips | Tiles | None = None,
) -> Float[Array, 'b y2 x2 3']:
  """Images in [0, 1] of the transformer's latents, scaled to cover `size`.

  `parts` splits a large picture to save memory.
  """
  latents = _unscaled(module, latents)
  if isinstance(parts, Tiles):
    images = tiling.decode(module, variables, latents, parts)
  elif isinstance(parts, Strips):
    images = strip_decoding.decode(module, variables, latents, parts)
  else:
    return _decode(module, variables, latents, size)
  return _finished(images, size)


@functools.partial(jax.jit, static_argnums=0)
def _unscaled(module, latents):
  return base.unscaled(module, latents)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _decode(module, variables, latents, size):
  return _finished(module.apply(variables, latents, method='decode'), size)


@functools.partial(jax.jit, static_argnums=1)
def _finished(images, size):
  images = images.astype(jnp.float32)
  if size is not None:
    images = bins.resize_and_crop(images, *size)  # Before clipping.
  return jnp.clip(images * 0.5 + 0.5, 0, 1)


@jax.jit
def are_finite(images: Float[Array, 'b y x c']) -> Bool[Array, 'b']:
  """Whether each image, or its latents, has neither NaN nor infinity."""
  return jnp.isfinite(images).all(axis=range(1, images.ndim))


def warn_of_nan(images: Float[Array, 'b y x c']) -> None:
  """Logs the numbers of the images that are not finite; waits for them."""
  bad = np.flatnonzero(~np.asarray(are_finite(images)))
  if len(bad):
    logging.warning(
      'Picture %s of %d %s', ', '.join(map(str, bad)), len(images), NOT_FINITE
    )


@jax.jit
def to_uint8(images: Float[Array, '*b']) -> UInt8[Array, '*b']:
  """[0, 1] to 0..255, rounding halves to even as diffusers does."""
  return jnp.round(images.astype(jnp.float32) * 255).astype(jnp.uint8)
