"""The one place where a transformer is called by losses, samplers and guidance.

The network's conventions live here: its time scale, its dtype, the scale of the
guidance embedding, and that it knows the flow alone, whatever the path.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.diffusion.paths import Flow, Path, Prediction
from sana_jax.typing import Array, Bool, Float, Params, PyTree


class Condition(NamedTuple):
  """All that a prediction depends on besides the sample and its time.

  Examples lead in all arrays, so that conditions can be concatenated.

  Attributes:
    text: the text encoder's states [b m e], or those projected by the network
      (`Denoiser.condition`), which a sampler does once.
    mask: true for words.
    guidance: the scale, for networks that embed it.
  """

  text: PyTree
  mask: Bool[Array, 'b m'] | None = None
  guidance: Float[Array, 'b'] | None = None


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """A network in a parameterisation; hashable, for `jax.jit`.

  Attributes:
    module: a `Sana`, or what has its `evaluate`, `project_text`, `dtype`,
      `timestep_scale` and `guidance_embeds_scale`.
    path: of samples, times and predictions.
  """

  module: nn.Module
  path: Path = Flow()

  def condition(
    self,
    params: Params,
    text: Float[Array, 'b m e'],
    mask: Bool[Array, 'b m'] | None,
    guidance: float | Float[Array, 'b'] | None = None,
    *,
    adapters: PyTree | None = None,
  ) -> Condition:
    """A condition whose text is projected, once for any number of calls."""
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
    control: PyTree | None = None,
  ) -> Prediction:
    """The prediction at x, a point of the path at time t.

    Args:
      timestep: what the network is told of the time, where that is not exactly
        the path's: diffusers truncates it to an integer.
      adapters: of the network's dense layers, see models/layers.py.
      features: numbers of blocks, from 0, whose output the prediction holds.
      perturbed: which examples see only themselves in which blocks.
      control: a ControlNet's outputs.
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
      control,
      perturbed,
      tuple(features),
      method='evaluate',
    )
    # f32: bfloat16 would round what the path's conversion adds to it.
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
