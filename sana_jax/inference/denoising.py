"""Denoising of noise to latents: all steps in one program, or step by step.

Step by step, callbacks run after each one and can stop the loop; the results
are the same.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from sana_jax.diffusion import inpainting, samplers
from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.diffusion.guidance import guide
from sana_jax.typing import Array

# Layers that NVlabs' PAG perturbs, by depth of the published models.
_PAG_LAYERS = {20: (8,), 28: (14,)}


@functools.partial(jax.jit, static_argnames=('module', 'sampler', 'guidance'))
def denoise(
  module,
  variables,
  noise,
  text,
  negative,
  grid,
  *,
  sampler,
  guidance,
  rng=None,
  known=None,
  control=None,
):
  """Latents at t = 0; text and negative are (embeddings, mask).

  A network that embeds its guidance scale has no use for `negative`. `known` is
  what the latents keep of an image (diffusion/inpainting.py), `control` what a
  module with ControlNets takes, the same for both.
  """
  denoiser = Denoiser(module, grid.path)
  conditions = _project(
    denoiser, variables, text, negative, guidance.scale, control
  )
  predict = _guided(denoiser, variables, conditions, guidance)
  constrain = inpainting.keep(known, grid.path)
  return samplers.sample(
    samplers.make(sampler), predict, noise, grid, rng, constrain
  )


def denoise_step_by_step(
  on_step: Callable[[int], None] | None,
  on_estimate: Callable[[int, Callable[[], Array]], None] | None,
  module,
  variables,
  noise,
  text,
  negative,
  grid,
  *,
  sampler,
  guidance,
  rng=None,
  known=None,
  control=None,
):
  """The same, with callbacks after each step.

  One program serves any number of steps. An exception of a callback ends the
  loop.

  Args:
    on_step: called with the number of steps done.
    on_estimate: called with it and a function, which returns the latents at
      t = 0 that are expected by then.
  """
  denoiser = Denoiser(module, grid.path)
  conditions = _project_once(
    denoiser, variables, text, negative, guidance.scale, control
  )
  guidance = _outside(denoiser, guidance)  # One program for all scales.
  carry, steps = samplers.begin(samplers.make(sampler), noise, grid, rng)
  if isinstance(noise.sharding, NamedSharding):
    # The sharding of a step's outputs; otherwise the second step recompiles.
    everywhere = NamedSharding(noise.sharding.mesh, jax.P())
    carry = jax.tree.map(
      lambda x: x if x.ndim else jax.device_put(x, everywhere), carry
    )
  for i in range(len(grid.timesteps)):
    now = jax.tree.map(lambda x: x[i : i + 1], steps)  # noqa: B023
    before = carry.x
    carry = jax.block_until_ready(
      _advance(
        denoiser,
        variables,
        carry,
        conditions,
        now,
        rng,
        known,
        sampler,
        guidance,
      )
    )
    if on_step is not None:
      on_step(i + 1)
    if on_estimate is not None:
      on_estimate(
        i + 1, functools.partial(_expected, before, carry, now[0], grid.path)
      )
  return samplers.finish(carry, grid)


def runner(on_step: Callable | None, on_estimate: Callable | None) -> Callable:
  """`denoise`, or `denoise_step_by_step` if there is a callback."""
  if on_step is None and on_estimate is None:
    return denoise
  return functools.partial(denoise_step_by_step, on_step, on_estimate)


def _expected(before, carry, at, path):
  """Latents at t = 0 that are expected after a step."""
  if hasattr(carry, 'data'):  # Noise was added after the prediction.
    return carry.data
  return _estimate(before, carry.x, at, path)


@functools.partial(jax.jit, static_argnames='path')
def _estimate(before, after, at, path):
  """Latents at t = 0, along the line through both ends of a step.

  It is the predicted data for a step of order 1. A carry needs no prediction
  for it, so that the steps are the same program with and without estimates.
  """
  velocity = (after - before) / (at.s - at.t)[0]
  return path.data(before, velocity, at.t[0])


@functools.partial(jax.jit, static_argnames=('denoiser', 'sampler', 'guidance'))
def _advance(
  denoiser, variables, carry, conditions, now, rng, known, sampler, guidance
):
  predict = _guided(denoiser, variables, conditions, guidance)
  constrain = inpainting.keep(known, denoiser.path)
  return samplers.advance(
    samplers.make(sampler), predict, carry, now, rng, constrain
  )


def _project(denoiser, variables, text, negative, scale, control):
  """Projections of both texts, once for all steps, with equal batch sizes."""

  def project(condition, scale=None):
    params, adapters = _parts(variables)
    projected = denoiser.condition(params, *condition, scale, adapters=adapters)
    return projected._replace(control=control)

  if denoiser.module.guidance_embeds:
    return project(text, scale), None
  # Broadcast after the projection: it may be one for all prompts.
  negative = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (len(text[1]), *x.shape[1:])),
    project(negative),
  )
  return project(text), negative


_project_once = jax.jit(_project, static_argnames='denoiser')


def _outside(denoiser, guidance):
  """Guidance outside of the network, which may embed the scale."""
  if denoiser.module.guidance_embeds:
    return dataclasses.replace(guidance, scale=1.0)
  return guidance


def _guided(denoiser, variables, conditions, guidance):
  guidance = _outside(denoiser, guidance)
  depth = denoiser.module.depth
  usual = _PAG_LAYERS.get(depth, (depth // 2,))
  layers = jnp.isin(jnp.arange(depth), jnp.array(guidance.pag_layers or usual))
  params, adapters = _parts(variables)

  def model(x, t, condition: Condition, *, timestep, perturbed=None):
    if perturbed is not None:
      perturbed = layers[:, None] & perturbed
    return denoiser(
      params,
      x,
      t,
      condition,
      timestep=timestep,
      adapters=adapters,
      perturbed=perturbed,
    )

  return guide(model, *conditions, guidance)


def _parts(variables):
  """Parameters, and adapters if there are any."""
  return variables['params'], variables.get('adapters')
