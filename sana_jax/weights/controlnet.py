"""Weights and config of the ControlNet in the diffusers layout.

diffusers' SanaControlNetModel has no `qk_norm`, and would drop the norms'
tensors without an error. A net with norms has the same tensors as there, under
a class name of its own, so that no pipeline of diffusers runs it without them.
"""

from collections.abc import Mapping
from typing import Any

from sana_jax import fields as conditions
from sana_jax.models.controlnet import AFTER
from sana_jax.weights import sana
from sana_jax.weights.table import Rule

CLASS = 'SanaControlNetModel'
NORMED_CLASS = 'SanaNormedControlNet'
NORMED_NOTE = (
  'diffusers has no ControlNet with qk_norm: sana_jax reads this one, and '
  '--format official writes it for the official code.'
)
_DEFAULTS = {**sana.SHARED_DEFAULTS, 'num_layers': 7}
# Ours: diffusers ignores the key, and has one wiring.
_WIRING = {'wiring': 'diffusers'}


def class_name(norm: bool) -> str:
  """Class in the config.json of a net with or without norms."""
  return NORMED_CLASS if norm else CLASS


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
  name = config.get('_class_name', CLASS)
  norm = name == NORMED_CLASS
  config, width = sana.checked(
    'controlnet',
    class_name(norm),
    config,
    _DEFAULTS | _WIRING,
    sana.SHARED_FIELDS | {'wiring': conditions.choice(*AFTER)},
  )
  return {
    'wiring': config['wiring'],
    **{field: config[key] for key, field in sana.SHARED.items()},
    'width': width,
    'qk_norm': norm,
    'cross_norm': norm,
  }


def diffusers_config(fields: Mapping[str, Any]) -> dict[str, Any]:
  """The controlnet/config.json of a model; inverse of the above."""
  sana.check_norms(fields)
  return {
    '_class_name': class_name(fields['qk_norm']),
    **_DEFAULTS,
    **{key: fields[field] for key, field in sana.SHARED.items()},
    **sana.widths(fields),
    **({k: fields[k] for k, x in _WIRING.items() if fields[k] != x}),
  }
