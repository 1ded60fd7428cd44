"""Weights and config of the ControlNet in the diffusers layout."""

from collections.abc import Mapping
from typing import Any

from sana_jax import fields as conditions
from sana_jax.errors import UserError
from sana_jax.models.controlnet import AFTER
from sana_jax.weights import sana
from sana_jax.weights.table import Rule

_CLASS = 'SanaControlNetModel'
_DEFAULTS = {**sana.SHARED_DEFAULTS, 'num_layers': 7}
# Ours: diffusers ignores the key, and has one wiring.
_WIRING = {'wiring': 'diffusers'}


def rules() -> list[Rule]:
  """Rules of a Sana's embeddings and blocks, and of the added layers."""
  return [
    *sana.embedding_rules(),
    *sana.block_rules(),
    *sana.layer('input_block', 'input'),
    *sana.layer('controlnet_blocks.{i}', 'blocks/output'),
  ]


def fields_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `SanaControlNet`, from controlnet/config.json."""
  config, width = sana.checked(
    'controlnet',
    _CLASS,
    config,
    _DEFAULTS | _WIRING,
    sana.SHARED_FIELDS | {'wiring': conditions.choice(*AFTER)},
  )
  return {
    'wiring': config['wiring'],
    **{field: config[key] for key, field in sana.SHARED.items()},
    'width': width,
  }


def diffusers_config(fields: Mapping[str, Any]) -> dict[str, Any]:
  """The controlnet/config.json of a model; inverse of the above."""
  check_fields(fields)
  return {
    '_class_name': _CLASS,
    **_DEFAULTS,
    **{key: fields[field] for key, field in sana.SHARED.items()},
    **sana.widths(fields),
    **({k: fields[k] for k, x in _WIRING.items() if fields[k] != x}),
  }


def check_fields(fields: Mapping[str, Any]) -> None:
  """Raises UserError for a module that diffusers' config cannot describe."""
  if fields['qk_norm'] or fields['cross_norm']:
    raise UserError(
      'diffusers has no ControlNet with qk_norm or cross_norm; '
      'they must be off to export.',
      key='qk_norm',
      value=fields['qk_norm'] or fields['cross_norm'],
      allowed=(False,),
    )
