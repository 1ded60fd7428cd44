"""Denoiser, through which losses, samplers and guidance call the transformer.

The network's conventions are applied here: its time scale, its dtype, the scale
of the guidance embedding, and conversion to the flow, whatever the path.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from sana_jax.diffusion.paths import Flow, Path, Prediction
from sana_jax.typing import Array, Bool, Float, Params, PyTree


class Condition(NamedTuple):
  """Conditioning of a prediction: everything besides the sample and its time.

  Arrays have a leading batch axis, so conditions can be concatenated.

  Attributes:
    text: the text encoder's states [b m e], or their projection by the network
      (`Denoiser.condition`), which a sampler computes once.
    mask: true for words.
    guidance: the scale, for networks that embed it.
    control: a ControlNet's outputs for a `Sana`, or what another module takes:
      hints for a `ControlledSana`.
  """

  text: PyTree
  mask: Bool[Array, 'b m'] | None = None
  guidance: Float[Array, 'b'] | None = None
  control: PyTree | None = None


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """Network with a parameterisation; hashable, for `jax.jit`.

  Attributes:
    module: a `Sana`, or a module with its `evaluate`, `project_text`, `dtype`,
      `timestep_scale` and `guidance_embeds_scale`.
    path: path of samples, times and predictions.
  """

  module: Any
  path: Path = Flow()

  def condition(
    self,
    params: Params,
    text: Float[Array, 'b m e'],
    mask: Bool[Array, 'b m'] | None,
    guidance: float | Float[Array, ''] | Float[Array, 'b'] | None = None,
    *,
    adapters: PyTree | None = None,
  ) -> Condition:
    """Condition with projected text, reusable in any number of calls."""
    projected = self.module.apply(
      _variables(params, adapters), text, method='project_text'
    )
    if guidance is not None:
      guidance = jnp.broadcast_to(jnp.float32(guidance), text.shape[:1])
    return Condition(projected, mask, guidance)

  def __call__(
    self,
    params: Params,
    x: Float[Array, 'b *p c'],
    t: Float[Array, '*b'],
    condition: Condition,
    *,
    timestep: Float[Array, '*b'] | None = None,
    adapters: PyTree | None = None,
    features: Sequence[int] = (),
    perturbed: Bool[Array, 'l b'] | None = None,
  ) -> Prediction:
    """Prediction at x, a point of the path at time t.

    Args:
      timestep: the network's timestep if it is not exactly the path's:
        diffusers truncates it to an integer.
      adapters: adapters of the network's dense layers, see models/layers.py.
      features: indices of blocks whose output the prediction includes.
      perturbed: per block and example, whether self-attention is the identity.
    """
    module, path = self.module, self.path
    flow_x, flow_t = path.to_flow(x, t)
    timestep = path.timestep(t) if timestep is None else timestep
    timestep = jnp.broadcast_to(timestep, x.shape[:1]) * module.timestep_scale
    guidance = condition.guidance
    if guidance is not None:
      guidance = guidance * module.guidance_embeds_scale
    out = module.apply(
      _variables(params, adapters),
      flow_x.astype(module.dtype),
      timestep,
      condition.text,
      condition.mask,
      guidance,
      condition.control,
      perturbed,
      tuple(features),
      method='evaluate',
    )
    # f32: bfloat16 would round the terms that the path's conversion adds.
    v = out.velocity.astype(jnp.promote_types(x.dtype, jnp.float32))
    return Prediction(
      x,
      t,
      path.velocity_from_flow(v, flow_x, flow_t),
      path,
      out.logvar,
      out.features,
    )


def _variables(params, adapters):
  return {'params': params} | (
    {} if adapters is None else {'adapters': adapters}
  )
