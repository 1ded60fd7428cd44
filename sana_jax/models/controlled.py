"""A Sana with its ControlNets, as one network for `Denoiser`.

  v = base(x, t, text, sum of the nets' outputs)

It has the interface of `Sana`, so that losses, samplers and guidance do not
depend on ControlNets. Parameters are {'base': ..., 'nets': (..., ...)}; the
base may have adapters. A net reads the flow's timesteps in [0, 1000], whatever
the scale of the base's: those of a flow model work with its SANA-Sprint.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from sana_jax.models.attention import KeysValues
from sana_jax.models.controlnet import AFTER, first_block, SanaControlNet
from sana_jax.models.sana import of_each_block, Output, Sana
from sana_jax.typing import Array, Bool, Float, PyTree


class Texts(NamedTuple):
  """A text's projections by the base and by each net."""

  base: KeysValues
  nets: tuple[KeysValues, ...]


class Hint(NamedTuple):
  """Control of one net; arrays have a leading batch axis.

  Attributes:
    latents: of the control image, scaled like those of images.
    scale: factor of the net's outputs; 0 disables it.
    first, last: greatest and least timestep, in [0, 1000], at which it is
      applied; None for all.
  """

  latents: Float[Array, 'b y x c']
  scale: Float[Array, 'b']
  first: Float[Array, 'b'] | None = None
  last: Float[Array, 'b'] | None = None

  def at(self, timesteps: Float[Array, 'b']) -> 'Hint':
    """The hint at these times: of scale 0 outside of its range."""
    if self.first is None:
      return self
    inside = (self.last <= timesteps) & (timesteps <= self.first)
    return Hint(self.latents, jnp.where(inside, self.scale, 0.0))


@dataclasses.dataclass(frozen=True)
class ControlledSana:
  """Velocity of `base`, controlled by `nets`; hashable, for `jax.jit`.

  Make it by `controlled`. Outputs of a net beyond the depth of the base are
  unused.
  """

  base: Sana
  nets: tuple[SanaControlNet, ...]
  timestep_scale: float = 1.0

  def __getattr__(self, name: str) -> Any:
    """Fields of the base, such as `dtype` and `guidance_embeds`."""
    if name not in Sana.__dataclass_fields__:
      raise AttributeError(name)
    return getattr(self.base, name)

  def apply(self, variables: PyTree, *args, method: str) -> Any:
    """The result of `project_text` or `evaluate`, as of a Flax module."""
    return getattr(self, f'_{method}')(variables, *args)

  def _project_text(self, variables, text: Float[Array, 'b m e']) -> Texts:
    return Texts(
      self.base.apply(_of_base(variables), text, method='project_text'),
      tuple(
        net.apply({'params': params}, text, method='project_text')
        for net, params in zip(self.nets, variables['params']['nets'])
      ),
    )

  def _evaluate(
    self,
    variables: PyTree,
    latents: Float[Array, 'b y x c'],
    timesteps: Float[Array, 'b'],
    text: Float[Array, 'b m e'] | Texts,
    mask: Bool[Array, 'b m'] | None,
    guidance: Float[Array, 'b'] | None,
    control: Sequence[Hint],
    perturbed: Bool[Array, 'n b'] | None = None,
    features: Sequence[int] = (),
  ) -> Output:
    """Outputs of the base; `control` has a hint for each net."""
    if not isinstance(text, Texts):
      text = Texts(text, (text,) * len(self.nets))
    base, times = _of_base(variables), timesteps * self.base.timestep_scale
    outputs = []
    for net, params, hint, words in zip(
      self.nets, variables['params']['nets'], control, text.nets, strict=True
    ):
      start = None
      if net.wiring == 'official':
        start = first_block(
          self.base, base, latents, times, text.base, mask, guidance
        )
      out = net.apply(
        {'params': params},
        latents,
        timesteps,
        words,
        hint.latents.astype(net.dtype),
        mask,
        hint.at(timesteps).scale[:, None, None],
        start,
      )
      outputs.append(of_each_block(out, AFTER[net.wiring], self.base.depth))
    return self.base.apply(
      base,
      latents,
      times,
      text.base,
      mask,
      guidance,
      sum(outputs),
      perturbed,
      features,
      method='evaluate',
    )


def controlled(
  base: Sana, variables: PyTree, nets: Sequence[tuple[SanaControlNet, PyTree]]
) -> tuple[ControlledSana, PyTree]:
  """Module and variables of a base with nets: (module, variables) of each."""
  modules = tuple(net for net, _ in nets)
  params = {
    'base': variables['params'],
    'nets': tuple(of_net['params'] for _, of_net in nets),
  }
  return network(base, modules), {**variables, 'params': params}


def network(base: Sana, nets: tuple[SanaControlNet, ...]) -> ControlledSana:
  """The module of a base with nets, which rounds times if they do.

  The official code casts timesteps to the models' dtype: 999 becomes 1000 in
  bfloat16, in the base, too.
  """
  official = any(net.wiring == 'official' for net in nets)
  rounded = official or base.rounded_timesteps
  return ControlledSana(
    base.clone(control_after=0, rounded_timesteps=rounded),
    tuple(net.clone(rounded_timesteps=rounded) for net in nets),
  )


def _of_base(variables: Mapping[str, PyTree]) -> PyTree:
  return {**variables, 'params': variables['params']['base']}
