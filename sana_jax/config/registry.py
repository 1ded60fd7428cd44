"""The table of a task's keys, with their defaults and effects.

A key is added to one of `common.KEYS`, `data.KEYS`, `tasks.KEYS` and
`optim.keys.KEYS`. Its default, its checks, whether it may change when a run is
resumed, the keys of caches and plans, and docs/config.md follow from that.
"""

from collections.abc import Collection
import functools
import operator
from typing import Any

from ml_collections import ConfigDict

from sana_jax import registry
from sana_jax.config import common, data, tasks
from sana_jax.errors import did_you_mean, UserError
from sana_jax.keys import Effect, Key, one_of, PROGRAM, RESULT
from sana_jax.tree import flatten, unflatten

TASKS = tuple(tasks.KEYS)


def table(task: str | None) -> dict[str, Key]:
  """Every key by its dotted name; without a task, those of every run."""
  of_task = _of_task(task) if isinstance(task, str) else {}
  return {
    'task': Key(
      task or '',
      'Task to train.',
      one_of(TASKS)._replace(test=lambda value: value in registry.names()),
    ),
    **common.KEYS,
    **data.KEYS,
    **of_task,
  }


def _of_task(task):
  """Keys of a task, including one registered by another package."""
  if task in tasks.KEYS or task not in registry.names():
    return tasks.KEYS.get(task, {})
  return {
    f'{group}.{name}': key if isinstance(key, Key) else Key(key, '')
    for group, keys in registry.find(task).keys().items()
    for name, key in keys.items()
  }


def train(task: str) -> ConfigDict:
  """A locked config of a training run, with every key at its default."""
  names = tuple(registry.names())
  if task not in names:
    raise UserError(
      f'config.task={task!r} is unknown{did_you_mean(str(task), names)}; '
      f'allowed are {list(names)}.',
      key='task',
      value=task,
      allowed=names,
    )
  return ConfigDict(unflatten(defaults(task), '.')).lock()


def defaults(task: str) -> dict[str, Any]:
  """The default of each required key."""
  return {
    name: key.default for name, key in table(task).items() if not key.optional
  }


def effects(name: str, task: str | None) -> Effect:
  """Effects of another value; for a group, the union over its keys.

  A key that is not in the table, such as one of an older version, changes
  results and programs.
  """
  return _effects(name, table(task))


def _effects(name, keys):
  if name in keys:
    return keys[name].changes
  found = [
    key.changes for other, key in keys.items() if other.startswith(f'{name}.')
  ]
  return functools.reduce(operator.or_, found) if found else RESULT | PROGRAM


def changing(effect: Effect, config: ConfigDict) -> dict[str, Any]:
  """The values, by dotted key, of the keys with this effect."""
  keys = table(config.get('task'))
  return {
    name: value
    for name, value in flatten(config, '.').items()
    if effect in _effects(name, keys)
  }


def nearest(key: str, known: Collection[str]) -> str:
  """' (did you mean ...?)' with the same or a similar name, or ''.

  Similar names are searched in the key's group, if it exists.
  """
  group, dot, last = key.rpartition('.')
  if same := [k for k in known if k.rpartition('.')[2] == last]:
    return f' (did you mean {" or ".join(same[:2])}?)'
  siblings = [k for k in known if k.rpartition('.')[0] == group]
  if not siblings:
    return did_you_mean(key, known)
  return did_you_mean(
    last, [k.rpartition('.')[2] for k in siblings], group + dot
  )
