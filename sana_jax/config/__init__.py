"""The base of every config: each key with its type, default and check.

An experiment in configs/ starts from `train()` and assigns the keys that
differ. Configs are locked, so that a typo raises; `check` runs before any
device is used. docs/config.md lists the keys.
"""

from sana_jax.config.checking import check, check_keys
from sana_jax.config.overrides import apply_overrides, parse_arg
from sana_jax.config.registry import (
  changing,
  defaults,
  effects,
  table,
  TASKS,
  train,
)
from sana_jax.config.sizes import dc_ae_fields, SANA_SIZES, SHAPES

__all__ = [
  'apply_overrides',
  'changing',
  'check',
  'check_keys',
  'dc_ae_fields',
  'defaults',
  'effects',
  'parse_arg',
  'SANA_SIZES',
  'SHAPES',
  'table',
  'TASKS',
  'train',
]
