"""Registry of training tasks by the name in config.task.

    objective(config) -> Objective   to plan, time and count; reads no files
    exporter(config)  -> Exporter    to write a model folder; reads no data
    open_task(config) -> Task        to train; opens data and frozen models

An external task is registered by `register`, or by an installed package's
entry point: `[sana_jax.tasks]`, `mine = my_package.my_task:KIND`.
"""

import os

from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax.objectives.base import Objective
from sana_jax.registry import find, Kind, names, register
from sana_jax.training.task import Exporter, Task

__all__ = [
  'exporter',
  'find',
  'Kind',
  'names',
  'objective',
  'open_task',
  'register',
]


def objective(config: ConfigDict) -> Objective:
  """The objective of a config's task; no files are read."""
  return find(config.task).objective(config)


def exporter(config: ConfigDict) -> Exporter:
  """The model writer of a config's task; no data are opened."""
  return find(config.task).exporter(config)


def open_task(
  config: ConfigDict,
  workdir: os.PathLike | str,
  mesh: Mesh | None = None,
) -> Task:
  """The task of a config, with its data opened.

  Frozen models are sharded over `mesh`, which is then the run's.
  Raises UserError for unsuitable data or models.
  """
  return find(config.task).open(config, workdir, mesh)
