"""Configs and layouts: Python files to execute, or names of shipped ones."""

from collections.abc import Sequence
import importlib.util
import pathlib
import stat
import traceback
from typing import Any

from ml_collections import ConfigDict

from sana_jax import config as base
from sana_jax.errors import did_you_mean, UserError
from sana_jax.keys import LAYOUT
from sana_jax.paths import expanded
from sana_jax.tree import flatten

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'

_CONFIG = 'def get_config(arg) that returns a ConfigDict'
_LAYOUT = "LAYOUT = {'mesh.fsdp': -1}, with keys of the config"


def load_config(name: str) -> ConfigDict:
  """Loads the config FILE, FILE:ARG or a shipped one.

  Raises UserError, with the line, for any error in the file.
  """
  file, _, arg = name.partition(':')
  config = _run(
    f'--config={name}',
    _find(f'--config={name}', file, CONFIGS),
    lambda module: _of(module, 'get_config', _CONFIG)(arg),
  )
  if not isinstance(config, ConfigDict):
    raise UserError(
      f'--config={name}: get_config(arg) must return a '
      f'ConfigDict, not {type(config).__name__}.',
      key='--config',
      value=type(config),
      allowed=(ConfigDict,),
    )
  return config


def checked_config(name: str, overrides: Sequence[str]) -> ConfigDict:
  """Loads a config with overrides; raises UserError if it is invalid."""
  config = load_config(name)
  finish(config, overrides)
  return config


def finish(config: ConfigDict, overrides: Sequence[str]) -> None:
  """Applies overrides and checks; config.model follows from config.init_from.

  That is for commands other than train, which reads the model's folder.
  """
  from sana_jax.tasks import init_from

  base.apply_overrides(config, overrides)
  base.check_keys(config)
  base.check(config)
  init_from.set_model(config, overrides)


def apply_layout(config: ConfigDict, name: str) -> None:
  """Applies the LAYOUT of a file, or of a shipped name."""
  flag = f'--layout={name}'
  layout = _run(
    flag,
    _find(flag, name, CONFIGS / 'layouts'),
    lambda module: _of(module, 'LAYOUT', _LAYOUT),
  )
  if not isinstance(layout, dict):
    raise UserError(
      f'{flag}: LAYOUT must be a dict, not {type(layout).__name__}.',
      key='--layout',
      value=type(layout),
      allowed=(dict,),
    )
  allowed = tuple(base.changing(LAYOUT, config))
  if wrong := [
    k for k in layout if k in flatten(config, '.') and k not in allowed
  ]:
    raise UserError(
      f'{flag} sets {wrong}; a layout may set {", ".join(allowed)}.',
      key='--layout',
      value=name,
      allowed=allowed,
    )
  try:
    base.apply_overrides(
      config, [f'--config.{key}={value}' for key, value in layout.items()]
    )
  except UserError as e:
    raise e.within(flag) from e


def _find(flag: str, file: str, shipped: pathlib.Path) -> pathlib.Path:
  named = path = pathlib.Path(expanded(file))
  if named.suffix != '.py' and '/' not in file:
    path = shipped / f'{file}.py'
  if _is_file(flag, path) and path.suffix == '.py':
    return path
  if _is_file(flag, named):
    raise UserError(
      f'{flag} is not a Python file: its name must end in .py.',
      key=flag.partition('=')[0],
      value=file,
      allowed=('.py',),
    )
  names = sorted(p.stem for p in shipped.glob('[!_]*.py'))
  raise UserError(
    f'{flag}: there is no such file; shipped are '
    f'{", ".join(names)}{did_you_mean(file, names)}.',
    key=flag.partition('=')[0],
    value=file,
    allowed=tuple(names),
  )


def _of(module, name, example):
  """The required definition of a file; UserError if it is missing."""
  if not hasattr(module, name):
    raise UserError(
      f'the file has no {name}; define it, such as {example}.', key=name
    )
  return getattr(module, name)


def _is_file(flag, path):
  try:
    return stat.S_ISREG(path.stat().st_mode)
  except (FileNotFoundError, NotADirectoryError):
    return False
  except OSError as e:
    raise UserError(
      f'{flag} cannot be read ({e.strerror}).',
      key=flag.partition('=')[0],
      value=path,
    ) from e


def _run(flag: str, path: pathlib.Path, get) -> Any:
  """Returns `get(module of the file)`; raises its errors as UserError."""
  spec = importlib.util.spec_from_file_location('_config', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    return get(module)
  except UserError as e:
    raise e.within(flag) from e
  except Exception as e:  # noqa: BLE001  It is the user's own code.
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(e.__traceback__)
      if frame.filename == str(path)
    ]
    # An error of a call, such as of a function without arguments, has none.
    line = getattr(e, 'lineno', None) or (lines or [None])[-1]
    at = f' in line {line}' if line else ''
    raise UserError(
      f'{flag} fails{at} ({brief(e)}); fix the file.',
      key=flag.partition('=')[0],
      value=(type(e).__name__, line),
    ) from e


def brief(error: Exception) -> str:
  """Type of an error and the first line of its message."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0]}'
