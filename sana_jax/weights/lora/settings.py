"""Ranks and scales of an adapter file, from its header or peft's config.

A file of diffusers has peft's config in its header; peft's own has it beside
itself, in adapter_config.json. Without one, alpha is the rank.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from sana_jax import fields, files
from sana_jax.errors import UserError
from sana_jax.weights.lora import names
from sana_jax.weights.lora.writing import METADATA, PREFIX

_CONFIG = 'adapter_config.json'
_RANK, _ALPHA = fields.integer(1, 2**16), fields.number(-1e6, 1e6)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Rank and alpha of layers; None where the file has no config.

  Attributes:
    ranks, alphas: those of layers by peft's patterns of names.
  """

  rank: int | None = None
  alpha: float | None = None
  ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
  alphas: Mapping[str, float] = dataclasses.field(default_factory=dict)
  rslora: bool = False

  def scale(self, layer: str, rank: int) -> float:
    """Scale of a layer with a `down` of this rank."""
    alpha = _of(self.alphas, layer, self.alpha)
    if alpha is None:
      return 1.0
    return alpha / (rank**0.5 if self.rslora else rank)

  def check_rank(self, layer: str, rank: int) -> None:
    """Raises UserError if the config has another rank for the layer."""
    wanted = _of(self.ranks, layer, self.rank)
    if wanted not in (None, rank):
      raise UserError(
        f'{layer} has the rank {rank}, and {wanted} in the config of the file.',
        key='lora',
        value=rank,
        allowed=(wanted,),
      )


def of_file(metadata: Mapping[str, str], path: pathlib.Path) -> Settings:
  """Settings of a file with this header; UserError for an invalid config."""
  if METADATA in metadata:
    config = _parsed(metadata[METADATA])
    where = f'{METADATA} of the header'
  elif (
    path.name.startswith('adapter_model') and path.with_name(_CONFIG).exists()
  ):
    config = files.read_json(path.with_name(_CONFIG), most=2**20)
    where = _CONFIG
  else:
    return Settings()
  if not isinstance(config, dict):
    raise UserError(f'{where} is not a JSON object.', key='lora', value=where)
  return _checked({k.removeprefix(PREFIX): x for k, x in config.items()}, where)


def _parsed(text):
  """The JSON value of a text; None if it is none."""
  try:
    return files.parse_json(text)
  except ValueError:
    return None


def _checked(config: Mapping[str, Any], where: str) -> Settings:
  """The settings of peft's config; other fields of it are not used."""
  found = {
    'r': config.get('r'),
    'lora_alpha': config.get('lora_alpha', config.get('alpha')),
    'rank_pattern': config.get('rank_pattern') or {},
    'alpha_pattern': config.get('alpha_pattern') or {},
  }
  each = {'rank_pattern': _RANK, 'alpha_pattern': _ALPHA}
  for name, field in (
    ('r', fields.either(_RANK, fields.NULL)),
    ('lora_alpha', fields.either(_ALPHA, fields.NULL)),
  ):
    fields.check(where, {name: found[name]}, {name: field})
  for name, field in each.items():
    if not isinstance(found[name], dict):
      raise UserError(
        f'{where}: {name} must be an object.', key=name, value=found[name]
      )
    fields.check(where, found[name], dict.fromkeys(found[name], field))
  return Settings(
    found['r'],
    None if found['lora_alpha'] is None else float(found['lora_alpha']),
    found['rank_pattern'],
    found['alpha_pattern'],
    bool(config.get('use_rslora')),
  )


def _of(patterns, layer, default):
  """Value of the first pattern that matches, as in peft."""
  return next(
    (x for pattern, x in patterns.items() if names.matches(pattern, layer)),
    default,
  )
