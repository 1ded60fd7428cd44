"""Registry of the models that a folder may contain, by class name.

The config.json of a part names its class. `register` adds a class before a
folder is read; docs/extending.md has an example.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import flax.linen as nn

from sana_jax.errors import UserError
from sana_jax.fields import shown
from sana_jax.models import abstract
from sana_jax.models.autoencoders.dc_ae import autoencoder, DCAE
from sana_jax.models.controlnet import SanaControlNet
from sana_jax.models.gemma2 import Gemma2
from sana_jax.models.sana import Sana
from sana_jax.sharding import tables
from sana_jax.weights import controlnet, dc_ae, gemma2, sana
from sana_jax.weights.kind import ModelKind, under_params

TRANSFORMER = ModelKind(
  'SanaTransformer2DModel',
  'transformer',
  Sana,
  'diffusion_pytorch_model',
  sana.fields_from_diffusers,
  sana.diffusers_config,
  shapes=lambda module: {'params': abstract.transformer(module)},
  layers=lambda module: module.depth,
  rules=lambda module: under_params(sana.rules(module.guidance_embeds)),
  sharding=tables.SANA,
)

CONTROLNET = ModelKind(
  controlnet.CLASS,
  'controlnet',
  SanaControlNet,
  'diffusion_pytorch_model',
  controlnet.fields_from_diffusers,
  controlnet.diffusers_config,
  shapes=abstract.controlnet,
  layers=lambda module: module.depth,
  rules=lambda _: under_params(controlnet.rules()),
  sharding=tables.CONTROLNET,
)

NORMED_CONTROLNET = dataclasses.replace(
  CONTROLNET, class_name=controlnet.NORMED_CLASS
)

AUTOENCODER = ModelKind(
  'AutoencoderDC',
  'vae',
  DCAE,
  'diffusion_pytorch_model',
  dc_ae.fields_from_diffusers,
  dc_ae.diffusers_config,
  shapes=abstract.autoencoder,
  layers=lambda module: sum(module.encoder_depths) + sum(module.decoder_depths),
  rules=lambda _: dc_ae.VARIABLES,
  sharding=tables.DC_AE,
  check=autoencoder.check,
)

TEXT_ENCODER = ModelKind(
  'gemma2',
  'text_encoder',
  Gemma2,
  'model',
  gemma2.fields_from_transformers,
  gemma2.transformers_config,
  shapes=abstract.text_encoder,
  layers=lambda module: module.depth,
  rules=lambda _: under_params(gemma2.RULES),
  sharding=tables.GEMMA2,
  prepare=gemma2.model_tensors,
)

_REGISTRY = {
  kind.class_name: kind
  for kind in (TRANSFORMER, CONTROLNET, AUTOENCODER, TEXT_ENCODER)
}
# Kind of a part whose config.json does not name a class.
PARTS = {kind.part: kind for kind in _REGISTRY.values()}
_REGISTRY[NORMED_CONTROLNET.class_name] = NORMED_CONTROLNET


def register(kind: ModelKind) -> None:
  """Adds a kind.

  Raises ValueError if its class name is taken or its part is unknown.
  """
  if _REGISTRY.get(kind.class_name, kind) is not kind:
    raise ValueError(
      f'The class name {kind.class_name!r} is taken by '
      f'{_REGISTRY[kind.class_name].cls.__name__}.'
    )
  if kind.part not in PARTS:
    raise ValueError(
      f'A model has no part {kind.part!r}; allowed are {", ".join(PARTS)}.'
    )
  _REGISTRY[kind.class_name] = kind


def names(part: str | None = None) -> list[str]:
  """Class names of a part, or of all."""
  return [
    name
    for name, kind in _REGISTRY.items()
    if part is None or kind.part == part
  ]


def of_config(config: Mapping[str, Any], part: str) -> ModelKind:
  """Kind that the config.json of a part names.

  Raises UserError for a class that is unknown, or of another part.
  """
  name = class_name(config)
  if name is None:
    return PARTS[part]
  kind = _REGISTRY.get(name) if isinstance(name, str) else None
  if kind is None or kind.part != part:
    raise UserError(
      f'{part}/config.json is of the class {shown(name)}; allowed are '
      f'{", ".join(names(part))}.',
      key='_class_name',
      value=name,
      allowed=names(part),
    )
  return kind


def of_module(module: nn.Module) -> ModelKind:
  """Kind of a module; KeyError if its class is not registered."""
  for kind in _REGISTRY.values():
    if kind.cls is type(module):
      return kind
  raise KeyError(type(module).__name__)


def part_of(config: Mapping[str, Any]) -> str | None:
  """Part of a config.json's class; None if the class is unknown."""
  name = class_name(config)
  kind = _REGISTRY.get(name) if isinstance(name, str) else None
  return kind and kind.part


def class_name(config: Mapping[str, Any]) -> Any:
  """Class that a config.json names, of any type; None if there is none."""
  return config.get('_class_name', config.get('model_type'))
