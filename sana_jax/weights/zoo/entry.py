"""Metadata of a published checkpoint."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from sana_jax.typing import DType
from sana_jax.weights import kinds

# Main part of an entry's folder, by kind.
KINDS = {
  'pipeline': 'transformer',
  'sprint': 'transformer',
  'controlnet': 'controlnet',
  'autoencoder': 'vae',
  'text_encoder': 'text_encoder',
}
# Sources of a config.
SOURCES = {
  'S': "diffusers' source and converter",
  'N': "NVIDIA's training configs",
  'P': 'a config.json from the hub, quoted elsewhere',
  'R': 'inferred, not seen',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A checkpoint.

  Attributes:
    kind: one of KINDS.
    hub_id: hub id of the diffusers layout; None if there is none.
    official_hub_id: hub id of the authors' own format.
    fields: fields of each model of the checkpoint, by part of its folder.
    parameters: parameters of the model of `part`.
    dtypes: recommended dtypes, by part.
    source: letters of SOURCES, for `fields`.
    sampler, flow_shift, steps, guidance: values of diffusers; None for models
      that are not sampled from.
    official_flow_shift: NVIDIA's own value, if it differs.
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
    """Main part, which `parameters` counts."""
    return KINDS[self.kind]

  @property
  def can_sample(self) -> bool:
    """Whether `Pipeline` makes pictures with it."""
    return self.kind in ('pipeline', 'sprint', 'controlnet')

  @property
  def is_part(self) -> bool:
    """Whether it is one part of a model, such as an autoencoder."""
    return 'transformer' not in self.fields

  @property
  def size_px(self) -> int | None:
    """Side of the square images for which it was trained."""
    if self.is_part:
      return None
    latents = self.module('transformer').sample_size
    return latents * self.module('vae').spec.side

  def module(self, part: str, dtype: DType = jnp.float32) -> nn.Module:
    """Module of a part."""
    return kinds.PARTS[part].cls(**self.fields[part], dtype=dtype)

  def configs(self) -> dict[str, dict[str, Any]]:
    """The config.json of each part, as in diffusers and transformers."""
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
