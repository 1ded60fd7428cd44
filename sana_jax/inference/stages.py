"""The pipeline's stages as pure, jitted functions of arrays.

Each is compiled once a shape, and kept on disk where JAX has a compilation
cache.
"""

import functools

import jax
import jax.numpy as jnp

from sana_jax.diffusion import samplers
from sana_jax.diffusion.guidance import guide
from sana_jax.inference import bins, seamless, tiling
from sana_jax.inference.seamless import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.models.sana import project_text
from sana_jax.typing import Array, Float, UInt8

# By depth, where NVlabs' PAG perturbs the published models.
_PAG_LAYERS = {20: (8,), 28: (14,)}


@functools.partial(
  jax.jit, static_argnames=('module', 'sampler', 'guidance'))
def denoise(module, variables, noise, text, negative, grid, *, sampler,
             guidance):
  usual = _PAG_LAYERS.get(module.depth, (module.depth // 2,))
  layers = jnp.isin(
    jnp.arange(module.depth), jnp.array(guidance.pag_layers or usual))

  def model(x, timesteps, condition, perturbed=None):
    projected, mask = condition
    if perturbed is not None:
      perturbed = layers[:, None] & perturbed
    return module.apply(
      variables, x.astype(module.dtype), timesteps * module.timestep_scale,
      jax.tree.map(lambda y: jnp.moveaxis(y, 1, 0), projected), mask,
      perturbed=perturbed)

  def project(condition):
    embeddings, mask = condition
    projected = project_text(module, variables['params'], embeddings)
    # Examples lead, as in every other array that guidance puts together.
    return jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1), projected), mask

  # Projected first: it may be the same one for all.
  negative = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (noise.shape[0], *x.shape[1:])),
    project(negative))
  velocity = guide(model, project(text), negative, guidance)
  return samplers.sample(samplers.make(sampler), velocity, noise, grid)


def decode(
  module, variables, latents: Float[Array, 'b y x c'],
  size: tuple[int, int] | None = None, parts: Strips | Tiles | None = None,
) -> Float[Array, 'b y2 x2 3']:
  """Images in [0, 1] of the transformer's latents, scaled to cover `size`.

  `parts` is how a big picture is cut to save memory.
  """
  latents = _unscaled(module, latents)
  if isinstance(parts, Tiles):
    images = tiling.decode(module, variables, latents, parts)
  elif isinstance(parts, Strips):
    images = seamless.decode(module, variables, latents, parts)
  else:
    return _decode(module, variables, latents, size)
  return _finished(images, size)


@functools.partial(jax.jit, static_argnums=0)
def _unscaled(module, latents):
  return latents.astype(module.dtype) / module.scaling_factor


@functools.partial(jax.jit, static_argnums=(0, 3))
def _decode(module, variables, latents, size):
  return _finished(module.apply(variables, latents, method='decode'), size)


@functools.partial(jax.jit, static_argnums=1)
def _finished(images, size):
  images = images.astype(jnp.float32)
  if size is not None:
    images = bins.resize_and_crop(images, *size)  # Before they are clipped.
  return jnp.clip(images * 0.5 + 0.5, 0, 1)


@functools.partial(jax.jit, static_argnames='shape')
def draw_noise(seeds, numbers, shape) -> Float[Array, 'b y x c']:
  """Standard normal noise of each (seed, number), whatever the others are."""
  draw = lambda seed, number: jax.random.normal(
    jax.random.fold_in(jax.random.key(seed), number), shape)
  return jax.vmap(draw)(seeds, numbers)


@jax.jit
def to_uint8(images: Float[Array, '*b']) -> UInt8[Array, '*b']:
  """[0, 1] to 0..255, halves to even, as diffusers rounds."""
  return jnp.round(images.astype(jnp.float32) * 255).astype(jnp.uint8)
