"""Values from the command line: --config.key=value, and --config=FILE:ARG."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from sana_jax.config.registry import nearest
from sana_jax.errors import did_you_mean, UserError
from sana_jax.tree import flatten

_KINDS = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a number',
  str: 'text',
}


def parse_arg(arg: str, allowed: Sequence[str] = ('quick',)) -> str:
  """The part after the colon in --config=FILE:ARG; UserError if unknown."""
  if arg and arg not in allowed:
    raise UserError(
      f'The config has no variant {arg!r}{did_you_mean(arg, allowed)}; allowed '
      f'are {", ".join(allowed)}, or none.',
      key='--config',
      value=arg,
      allowed=tuple(allowed),
    )
  return arg


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> None:
  """Assigns `--config.key=value` arguments, converted to the key's type."""
  for argument in overrides:
    name, equals, text = argument.partition('=')
    if not name.startswith('--config.') or not equals:
      raise UserError(
        f'Unknown argument {argument!r}; overrides look like '
        f'--config.batch_size=64.',
        key=name,
        value=argument,
        allowed='--config.KEY=VALUE',
      )
    _assign(config, name.removeprefix('--config.'), text)


def _assign(config, key, text):
  *parents, last = key.split('.')
  node = config
  for part in parents:
    node = node[part] if isinstance(node, ConfigDict) and part in node else None
  if not isinstance(node, ConfigDict) or last not in node:
    known = flatten(config, '.')
    allowed = sorted(node if isinstance(node, ConfigDict) else known)
    raise UserError(
      f'There is no config.{key}{nearest(key, known)}; allowed are {allowed}.',
      key=key,
      value=text,
      allowed=tuple(allowed),
    )
  node[last] = _parse(key, text, node[last])


def _parse(key, text, current):
  if isinstance(current, ConfigDict):
    raise UserError(
      f'config.{key} is a group; assign one of {sorted(current)}.',
      key=key,
      value=text,
      allowed=tuple(f'{key}.{last}' for last in sorted(current)),
    )
  kind = type(current)
  if kind not in _KINDS:
    raise UserError(
      f'config.{key} cannot be set from the command line.',
      key=key,
      value=text,
      allowed='set it in a config file',
    )
  try:
    if kind is bool:
      return {'true': True, 'false': False}[text.lower()]
    return kind(text)
  except (KeyError, ValueError):
    raise UserError(
      f'config.{key}={text!r} must be {_KINDS[kind]}.',
      key=key,
      value=text,
      allowed=_KINDS[kind],
    ) from None
