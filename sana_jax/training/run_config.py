"""The config of a run, stored in config.json and in each checkpoint.

A second run with another config raises an error. A missing or damaged
config.json is replaced by the one of the newest checkpoint.
"""

import json
from typing import Any

from absl import logging
from etils import epath
import jax
import ml_collections

from sana_jax import config as rules
from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.keys import RESULT
from sana_jax.printable import printable
from sana_jax.training import checkpoint_files
from sana_jax.training.workdir import (
  barrier,
  read_state,
  resolve,
  write_atomically,
)
from sana_jax.tree import flatten, unflatten

_MISSING = 'missing'


def claim(
  workdir: epath.PathLike, config: ml_collections.ConfigDict
) -> epath.Path:
  """Creates the folder if needed, writes `config` to it and returns it.

  Raises the UserError of `compare`.
  """
  workdir = resolve(workdir)
  compare(workdir, config)
  barrier('config.json is read')  # Before process 0 rewrites it.
  if jax.process_index() == 0:
    text = json.dumps(files.parse_json(config.to_json()), indent=2) + '\n'
    write_atomically(workdir / 'config.json', text.encode())
  return workdir


def compare(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the folder holds a run with another config.

  Keys that change no result may differ, and a key that is new since that run
  has its default. The config of the newest checkpoint is used if config.json
  is missing, damaged or different.
  """
  workdir = resolve(workdir)
  kept, step = _kept(workdir)
  current = flatten(files.parse_json(config.to_json()), '.', empty=True)
  stored, damage = _described(workdir)
  differ = _differences(stored, current) if stored is not None else []
  if stored is not None and not differ:
    return
  if kept is not None and not _differences(kept, current):
    logging.warning(
      '%s/config.json is %s: the checkpoint of step %d has the config of '
      'this run.',
      workdir,
      damage or 'of another run',
      step,
    )
    return
  differ = differ or (kept is not None and _differences(kept, current))
  if differ:
    raise UserError(
      f'{workdir} holds a run of another config: {"; ".join(differ)}. Choose '
      'another --workdir, or set the config back.',
      key='--workdir',
      value=[text.partition(' ')[0] for text in differ],
    )
  if damage and damage != _MISSING:
    raise _undescribed(workdir, damage)


def read_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
  """Config of the run; keys that are new since then have their defaults.

  It is that of the newest checkpoint if config.json is missing or damaged.
  Raises UserError if there is no run.
  """
  workdir = resolve(workdir)
  values, damage = _described(workdir)
  kept, step = _kept(workdir)
  if values is None:
    values = kept
    if values is None and damage == _MISSING:
      raise UserError(
        f'--workdir={workdir} is no run: it has no config.json.',
        key='--workdir',
        value=workdir,
      )
    if values is None:
      raise _undescribed(workdir, damage)
    logging.warning(
      '%s/config.json is %s: the config is that of the checkpoint of step %d.',
      workdir,
      damage,
      step,
    )
  try:
    values = unflatten(values, '.')
    config = rules.train(values['task'])
    with config.unlocked():
      config.update(_frozen(values))
      config.model = ml_collections.ConfigDict(_frozen(values['model']))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{workdir}/config.json cannot be read ({type(error).__name__}: '
      f'{printable(error, 200)}); it was not written by a run.',
      key='--workdir',
      value=workdir,
    ) from error
  return config


def _described(workdir):
  """`(flat config, '')` of config.json, or `(None, reason)`."""
  data = read_state(workdir / 'config.json')
  if data is None:
    return None, _MISSING
  try:
    found = files.parse_json(data)
  except ValueError as error:
    return None, f'damaged ({error})'
  if not isinstance(found, dict) or not found or not _is_shallow(found):
    return None, 'damaged (it is no config)'
  return flatten(found, '.', empty=True), ''


def _is_shallow(tree, most=20):
  """Whether lists and dicts nest at most `most` deep; bounds recursion."""
  level = [tree]
  for _ in range(most):
    level = [
      x
      for node in level
      for x in (
        node.values()
        if isinstance(node, dict)
        else node
        if isinstance(node, list)
        else ()
      )
    ]
  return not level


def newest_about(workdir: epath.PathLike) -> tuple[dict[str, Any] | None, int]:
  """`(about, step)` of the newest checkpoint with a readable config, or None.

  Raises UserError if another version of the package wrote it.
  """
  folder = resolve(workdir) / 'checkpoints'
  for step in reversed(checkpoint_files.steps(folder)):
    try:
      checkpoint_files.check_kinds(folder / str(step))
      about = checkpoint_files.read_json(
        folder / str(step), checkpoint_files.ABOUT
      )
      config = about['config']
      if not isinstance(config, dict) or not _is_shallow(config):
        raise ValueError('it is no config')
      checkpoint_files.base_of(about)
    # Damaged ones, and any error of a bucket.
    except Exception as error:  # noqa: BLE001
      logging.warning(
        '%s/%d has no readable config (%s).',
        folder,
        step,
        printable(error, 200),
      )
      continue
    checkpoint_files.check_layout(folder / str(step), about)
    return about, step
  return None, 0


def _kept(workdir):
  """`(flat config, step)` of the newest checkpoint that has a config."""
  about, step = newest_about(workdir)
  return about and flatten(about['config'], '.', empty=True), step


def _undescribed(workdir, damage):
  return UserError(
    f'{workdir}/config.json is {damage}, and no '
    'checkpoint there has the config of the run; remove it to start '
    'again, or choose another --workdir.',
    key='--workdir',
    value=workdir,
  )


def _frozen(tree: Any) -> Any:
  """Converts lists back to tuples, since modules hash their fields."""
  if isinstance(tree, dict):
    return {key: _frozen(value) for key, value in tree.items()}
  return tuple(map(_frozen, tree)) if isinstance(tree, list) else tree


def _differences(stored: dict[str, Any], current: dict[str, Any]) -> list[str]:
  task = current.get('task')
  stored = {
    name: key.default
    for name, key in rules.table(task).items()
    if name in current and task in rules.TASKS
  } | stored
  missing = object()
  value = lambda found, key: printable(repr(found.get(key, 'absent')), 200)
  return [
    f'{printable(key, 200)} is {value(stored, key)} there and '
    f'{value(current, key)} here'
    for key in sorted({*stored, *current})
    if stored.get(key, missing) != current.get(key, missing)
    and RESULT in rules.effects(key, task)
  ]
