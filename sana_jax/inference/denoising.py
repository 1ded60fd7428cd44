"""From noise to latents: all steps in one program, or one step at a time.

Step by step, a caller hears of each and may stop; the numbers are the same.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from sana_jax.diffusion import samplers
from sana_jax.diffusion.guidance import guide
from sana_jax.typing import Array, Float

# By depth, where NVlabs' PAG perturbs the published models.
_PAG_LAYERS = {20: (8,), 28: (14,)}


@functools.partial(jax.jit, static_argnames='shape')
def draw_noise(seeds, numbers, shape) -> Float[Array, 'b y x c']:
  """Standard normal noise of each (seed, number), whatever the others are."""
  draw = lambda seed, number: jax.random.normal(
    jax.random.fold_in(jax.random.key(seed), number), shape)
  return jax.vmap(draw)(seeds, numbers)


@functools.partial(
  jax.jit, static_argnames=('module', 'sampler', 'guidance'))
def denoise(module, variables, noise, text, negative, grid, *, sampler,
            guidance):
  """Latents at t = 0; text and negative are (embeddings, mask)."""
  conditions = _project(module, variables, text, negative)
  velocity = _velocity(module, variables, conditions, guidance)
  return samplers.sample(samplers.make(sampler), velocity, noise, grid)


def denoise_by_step(
  on_step: Callable[[int], None], module, variables, noise, text, negative,
  grid, *, sampler, guidance):
  """The same; after each step, `on_step` is told how many are done.

  One program serves any number of steps. What `on_step` raises ends the loop.
  """
  conditions = _project_once(module, variables, text, negative)
  carry, steps = samplers.begin(samplers.make(sampler), noise, grid)
  if isinstance(noise.sharding, NamedSharding):
    # Where a step leaves its scalars: else the second step compiles again.
    everywhere = NamedSharding(noise.sharding.mesh, jax.P())
    carry = jax.tree.map(
      lambda x: x if x.ndim else jax.device_put(x, everywhere), carry)
  for i in range(len(grid.timesteps)):
    now = jax.tree.map(lambda x: x[i:i + 1], steps)  # noqa: B023
    carry = jax.block_until_ready(_advance(
      module, variables, carry, conditions, now, sampler, guidance))
    on_step(i + 1)
  return carry.x


@functools.partial(jax.jit, static_argnames=('module', 'sampler', 'guidance'))
def _advance(module, variables, carry, conditions, now, sampler, guidance):
  velocity = _velocity(module, variables, conditions, guidance)
  return samplers.advance(samplers.make(sampler), velocity, carry, now)


def _project(module, variables, text, negative):
  """What the blocks make of both texts, once for all steps; as many of each."""
  def project(condition):
    embeddings, mask = condition
    return module.apply(variables, embeddings, method='project_text'), mask

  # Projected first: it may be the same one for all.
  negative = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (len(text[1]), *x.shape[1:])),
    project(negative))
  return project(text), negative


_project_once = jax.jit(_project, static_argnames='module')


def _velocity(module, variables, conditions, guidance):
  usual = _PAG_LAYERS.get(module.depth, (module.depth // 2,))
  layers = jnp.isin(
    jnp.arange(module.depth), jnp.array(guidance.pag_layers or usual))

  def model(x, timesteps, condition, perturbed=None):
    projected, mask = condition
    if perturbed is not None:
      perturbed = layers[:, None] & perturbed
    return module.apply(
      variables, x.astype(module.dtype), timesteps * module.timestep_scale,
      projected, mask, perturbed=perturbed)

  return guide(model, *conditions, guidance)
