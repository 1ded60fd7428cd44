"""Ranks and scales of an adapter file, from its header or peft's config.

A file of diffusers has peft's config in its header; peft's own has it beside
itself, in adapter_config.json. Without one, alpha is the rank.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import re
from typing import Any

from sana_jax import fields, files
from sana_jax.errors import UserError
from sana_jax.printable import counted
from sana_jax.weights.lora.names import SUFFIX_OF
from sana_jax.weights.lora.writing import METADATA, PREFIX

_CONFIG = 'adapter_config.json'
ALPHA = fields.number(-1e6, 1e6)
_RANK = fields.integer(1, 2**16)
# Patterns of a file are regular expressions, of which a hostile one takes
# exponential time: alternatives or repetitions, few of them, and not both.
_ATOM = r'(?:[\w.\-]|\\[.d]|\[[\w\-]{1,20}\])'
_CHOICES = re.compile(rf'(?:{_ATOM}|[|()^$]|\(\?:)*')
_REPEATS = re.compile(rf'(?:{_ATOM}[*+?]?|[|^$])*')
_MOST_CHOICES, _MOST_REPEATS, _MOST_PATTERNS = 8, 2, 1000
_ALL_REPEATS = 100  # Of all patterns of a file.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Rank and alpha of layers; None where the file has no config.

  Attributes:
    ranks, alphas: those of layers by peft's patterns of names.
  """

  rank: int | None = None
  alpha: float | int | None = None
  ranks: Mapping[re.Pattern, int] = dataclasses.field(default_factory=dict)
  alphas: Mapping[re.Pattern, float | int] = dataclasses.field(
    default_factory=dict
  )
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
  each = {'rank_pattern': _RANK, 'alpha_pattern': ALPHA}
  for name, field in (
    ('r', fields.either(_RANK, fields.NULL)),
    ('lora_alpha', fields.either(ALPHA, fields.NULL)),
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
    *(
      dict(zip(_compiled(where, name, found[name]), found[name].values()))
      for name in each
    ),
    bool(config.get('use_rslora')),
  )


def _compiled(where, name, patterns) -> list[re.Pattern]:
  """Patterns of names; UserError for those that may take long to match."""
  repeats = {pattern: len(re.findall('[*+?]', pattern)) for pattern in patterns}
  if len(patterns) > _MOST_PATTERNS or sum(repeats.values()) > _ALL_REPEATS:
    raise UserError(
      f'{where}: {name} has {counted(len(patterns), "pattern")} with '
      f'{counted(sum(repeats.values()), "repetition")}; at most '
      f'{_MOST_PATTERNS} with {_ALL_REPEATS} are read.',
      key=name,
      value=len(patterns),
      allowed=_MOST_PATTERNS,
    )
  return [_regex(where, name, pattern, n) for pattern, n in repeats.items()]


def _regex(where, name, pattern, repeats):
  choices = pattern.count('|')
  try:
    if not (
      (_CHOICES.fullmatch(pattern) and choices <= _MOST_CHOICES)
      or (_REPEATS.fullmatch(pattern) and repeats <= _MOST_REPEATS)
    ):
      raise re.error('too complex')
    return re.compile(SUFFIX_OF.format(pattern))
  except (re.error, RecursionError, OverflowError) as error:
    raise UserError(
      f'{where}: {name} has the pattern {fields.shown(pattern)}, which is not '
      'read; write the names of layers, with few alternatives or repetitions.',
      key=name,
      value=pattern,
      allowed='names of layers',
    ) from error


def _of(patterns, layer, default):
  """Value of the first pattern that matches, as in peft."""
  return next(
    (x for pattern, x in patterns.items() if pattern.fullmatch(layer)), default
  )
