"""What is known of a published checkpoint."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.typing import DType
from sana_jax.weights import kinds

# The part of a folder that gives an entry its kind.
KINDS = {
  'pipeline': 'transformer',
  'sprint': 'transformer',
  'controlnet': 'controlnet',
  'autoencoder': 'vae',
  'text_encoder': 'text_encoder',
}
# How sure a config is: where it was read.
SOURCES = {
  'S': "diffusers' source and converter",
  'N': "NVIDIA's training configs",
  'P': 'a config.json from the hub that others quote',
  'R': 'inferred, not seen',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A checkpoint.

  Attributes:
    kind: one of KINDS.
    hub_id: of the diffusers layout; None where there is none.
    official_hub_id: of the authors' own format.
    fields: of each model that the checkpoint holds, by part of its folder.
    parameters: of the model that gives it its kind.
    dtypes: recommended, by part.
    source: letters of SOURCES, for `fields`.
    sampler, flow_shift, steps, guidance: as diffusers has them; None for what
      is not sampled from.
    official_flow_shift: NVIDIA's own, where it is another.
  """

  name: str
  kind: str
  hub_id: str | None
  official_hub_id: str | None
  fields: Mapping[str, Mapping[str, Any]]
  parameters: int
  dtypes: Mapping[str, str]
  licence: str
  source: str
  note: str = ''
  sampler: str | None = None
  flow_shift: float | None = None
  official_flow_shift: float | None = None
  steps: int | None = None
  guidance: float | None = None

  @property
  def part(self) -> str:
    """The part that `parameters` counts."""
    return KINDS[self.kind]

  @property
  def size_px(self) -> int | None:
    """Side of the square images that it was made for."""
    if 'transformer' not in self.fields:
      return None
    latents = self.module('transformer').sample_size
    return latents * self.module('vae').spec.side

  def module(self, part: str, dtype: DType = jnp.float32) -> nn.Module:
    """The model of that part."""
    return kinds.PARTS[part].cls(**self.fields[part], dtype=dtype)

  def configs(self) -> dict[str, dict[str, Any]]:
    """The config.json of each part, as diffusers and transformers have it."""
    return {
      part: kinds.PARTS[part].config(_all_fields(self.module(part)))
      for part in self.fields
    }


def _all_fields(module):
  return {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in ('parent', 'name')
  }
