"""A task: an objective with its data, first weights, pictures and files.

The loop trains one and knows nothing else of models or of sources of data.
"""

from collections.abc import Callable
import dataclasses
import os
from typing import NamedTuple

import grain
from jax.sharding import Mesh
from PIL import Image

from sana_jax.errors import UserError
from sana_jax.objectives.base import Objective
from sana_jax.typing import Params, PyTree


class Records(NamedTuple):
  """What an order is made of: how many, and a checksum of their buckets."""

  count: int
  checksum: int = 0


@dataclasses.dataclass(frozen=True)
class Data:
  """Batches, and what they are drawn from.

  Attributes:
    batches: (seed=, batch_size=, rows=) -> these rows of each batch of
      `batch_size`, as a dict of numpy arrays. Endless and deterministic: what
      stands in which row does not depend on who reads which. Its state
      (`get_state`, `set_state`) is JSON, and the same whatever the rows, so
      that a run goes on with another number of processes.
    records: compared between processes and runs, see agreement.py; None where
      there is nothing to compare.
  """

  batches: Callable[..., grain.DatasetIterator]
  records: Records | None = None


def _no_start(name: str, *_) -> Params:
  raise UserError(
    f'config.init_from={name!r}: this task starts from no model '
    "folder; set it to ''."
  )


@dataclasses.dataclass(frozen=True)
class Start:
  """How the model folder of config.init_from becomes first parameters.

  Attributes:
    check: (name) -> None; UserError unless the folder's model is the task's.
    load: (name, mesh) -> those of the parameters that the folder has, in
      float32 on the mesh, nested as in the objective.
  """

  check: Callable[[str], None] = _no_start
  load: Callable[[str, Mesh], Params] = _no_start


@dataclasses.dataclass(frozen=True)
class Exporter:
  """What makes a model folder of a run's parameters; no data are opened.

  Attributes:
    write: (host arrays, folder) -> None, in diffusers' layout.
  """

  objective: Objective
  write: Callable[[Params, os.PathLike], None]
  start: Start = Start()


@dataclasses.dataclass(frozen=True)
class Task:
  """What is trained, as training.loop.train takes it.

  Attributes:
    export: (host arrays, folder) -> None, in diffusers' layout.
    frozen: arrays as `objective.frozen()` describes. They are an argument of
      the compiled step and not constants in it. A leaf that already is a
      jax.Array on the run's mesh stays as it lies; all others are replicated.
    pictures: (params, step) -> a grid of samples, or None.
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
