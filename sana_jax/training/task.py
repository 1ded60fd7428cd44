"""A task: an objective with its data, initial weights, pictures and files.

It is the training loop's only interface to models and data sources.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import NamedTuple

import grain
from jax.sharding import Mesh
from PIL import Image

from sana_jax.errors import UserError
from sana_jax.objectives.base import Objective
from sana_jax.training.limits import Limit
from sana_jax.typing import Params, PyTree


class Records(NamedTuple):
  """Number of records and a checksum of their buckets."""

  count: int
  checksum: int = 0


@dataclasses.dataclass(frozen=True)
class Data:
  """Batches, and a description of their records.

  Attributes:
    batches: (seed=, batch_size=, rows=) -> these rows of each batch of
      `batch_size`, as a dict of numpy arrays. Endless and deterministic: the
      content of a row does not depend on which process reads it. Its state
      (`get_state`, `set_state`) is JSON, and the same for any rows, so that a
      run resumes with another number of processes.
    records: compared between processes and runs, see dataset_check.py; None to
      compare nothing.
  """

  batches: Callable[..., grain.DatasetIterator]
  records: Records | None = None


def _no_start(name: str, *_) -> Params:
  raise UserError(
    f'config.init_from={name!r}: this task cannot start from a model '
    "folder; set it to ''.",
    key='init_from',
    value=name,
    allowed=('',),
  )


@dataclasses.dataclass(frozen=True)
class Start:
  """Initial parameters from the model folder of config.init_from.

  Attributes:
    check: (name) -> None; UserError unless the folder's model is the task's.
    load: (name, mesh) -> the parameters in the folder, in float32 on the mesh,
      nested as in the objective.
  """

  check: Callable[[str], None] = _no_start
  load: Callable[[str, Mesh], Params] = _no_start


# (all parameters, batch of the data, number of previous steps) -> the step's
# batch, on this process's rows. A function of these and of the config: a
# resumed run must get the same batch again.
Collect = Callable[[Params, PyTree, int], PyTree]


@dataclasses.dataclass(frozen=True)
class Exporter:
  """Writer of a model folder from a run's parameters; no data are opened.

  Attributes:
    write: (host arrays, folder) -> None, in diffusers' layout.
  """

  objective: Objective
  write: Callable[[Params, os.PathLike], None]
  start: Start = Start()


@dataclasses.dataclass(frozen=True)
class Task:
  """Argument of training.loop.train.

  Attributes:
    export: (host arrays, folder) -> None, in diffusers' layout.
    frozen: arrays as described by `objective.frozen()`. They are arguments of
      the compiled step, not constants. A leaf that is a jax.Array on the run's
      mesh keeps its sharding; all others are replicated.
    models: (config key, its value) by part of `frozen`, for models that a
      resumed run must have again.
    limits: metrics that end a run, see training/limits.py.
    pictures: (params, step) -> a grid of samples, or None.
    collect: makes the batch of a step, such as pictures that the model draws,
      from that of the data; None takes the latter.
  """

  name: str
  objective: Objective
  data: Data
  export: Callable[[Params, os.PathLike], None]
  frozen: PyTree = dataclasses.field(default_factory=dict)
  pictures: Callable[[Params, int], Image.Image | None] = lambda params, step: (
    None
  )
  start: Start = Start()
  models: Mapping[str, tuple[str, str]] = dataclasses.field(
    default_factory=dict
  )
  limits: tuple[Limit, ...] = ()
  collect: Collect | None = None
