"""What can be trained: a registry of tasks by the name in config.task.

    objective(config) -> Objective   to plan, to time, to count: no files
    exporter(config)  -> Exporter    to write a model folder: no data
    open_task(config) -> Task        to train: data and frozen models too

A task from outside is registered by `register`, or by an installed package's
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
  """What the task of a config trains; no files are read."""
  return find(config.task).objective(config)


def exporter(config: ConfigDict) -> Exporter:
  """How the task of a config writes a model; no data are opened."""
  return find(config.task).exporter(config)


def open_task(
  config: ConfigDict,
  workdir: os.PathLike | str,
  mesh: Mesh | None = None,
) -> Task:
  """The task of a config with its data opened.

  Frozen models are split over `mesh`, which is then that of the run.
  Raises UserError for what the task cannot work with.
  """
  return find(config.task).open(config, workdir, mesh)
