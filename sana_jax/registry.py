"""Kinds of tasks by name; a task's module is imported on first use."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import importlib
import importlib.metadata
from typing import Any

from sana_jax.errors import UserError

GROUP = 'sana_jax.tasks'  # Entry-point group in a package's metadata.


@dataclasses.dataclass(frozen=True)
class Kind:
  """Factories of a task: functions of its config.

  Attributes:
    objective: (config) -> objectives.base.Objective.
    exporter: (config) -> training.task.Exporter.
    open: (config, workdir, mesh) -> training.task.Task.
    keys: () -> groups of the config besides those of every task, by name, with
      their keys' defaults; group `model` has the fields of a module.
    part: the part of a model folder that config.model describes, from which
      config.init_from sets it; '' for none.
    adds: fields of config.model whose parts the task adds to the model of
      config.init_from.
  """

  objective: Callable[..., Any]
  exporter: Callable[..., Any]
  open: Callable[..., Any]
  keys: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
  part: str = ''
  adds: tuple[str, ...] = ()


SHIPPED = {
  'sana': 'sana_jax.tasks.sana.task',
  'sprint': 'sana_jax.tasks.sprint.task',
  'controlnet': 'sana_jax.tasks.controlnet.task',
  'dc_ae': 'sana_jax.tasks.dc_ae',
  'text_encoder': 'sana_jax.tasks.text_encoder',
  'dpo': 'sana_jax.tasks.preference.dpo',
  'nft': 'sana_jax.tasks.preference.nft',
}
_registered: dict[str, Kind] = {}


def register(name: str, kind: Kind) -> None:
  """Registers a kind of task. Raises ValueError for a name that is taken."""
  if name in names():
    raise ValueError(f'there is a task {name!r} already')
  _registered[name] = kind


def names() -> list[str]:
  """Names of all kinds of tasks."""
  return [*SHIPPED, *_registered, *_installed()]


def find(name: str) -> Kind:
  """The kind with this name. Raises UserError if there is none."""
  if name not in names():
    raise UserError(
      f'config.task={name!r} is unknown; allowed are {", ".join(names())}.',
      key='task',
      value=name,
      allowed=names(),
    )
  if name in SHIPPED:
    return importlib.import_module(SHIPPED[name]).KIND
  return _registered.get(name) or _installed()[name].load()


@functools.cache
def _installed():
  """Entry points by name."""
  return {
    entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)
  }
